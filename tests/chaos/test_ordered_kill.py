"""kill -9 of consumers and of the server during ordered delivery: order is kept and nothing is lost."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from messaging.client.errors import JetStreamError
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
from schemas.codes import Outcome
from schemas.ids import new_delivery_id
from tests.support.cluster import cluster, leader_of
from tests.support.crash import STEPS
from tests.support.flaky import Flaky
from tests.support.receiver import Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

COUNT = 200


async def test_order_survives_repeated_kills(
    tmp_path: Path, nats_server: EmbeddedNats, figure: Callable[[str], None]
) -> None:
    """Order is kept with random failures, three workers killed in turn, and an overflowing work stream."""
    deliveries: list[str] = []
    async with (
        Flaky(fails=30, seed=random.randrange(1000)) as receiver,  # noqa: S311 - not for security
        Site(tmp_path, nats_server, work_per_destination="20") as site,
        contextlib.AsyncExitStack() as running,
    ):
        await site.destination("orders", receiver.url, ordering="fifo", timeout_s=0.2, retry_schedule_s=[0.02] * 30)

        async def produce(count: int) -> None:
            for _ in range(count):
                deliveries.append(await site.deliver("orders"))

        await produce(COUNT // 2)
        overflowed = len(await site.records(streams.OVERFLOW))
        workers = [await running.enter_async_context(site.consumer_process()) for _ in range(3)]
        producing = asyncio.create_task(produce(COUNT // 2))
        for kill in range(6):
            await until(lambda kill=kill: len(receiver.accepted) >= 25 * (kill + 1), 60)  # type: ignore[misc]
            workers[kill % 3].kill()
            workers[kill % 3] = await running.enter_async_context(site.consumer_process())
        await producing
        await until(site.is_settled, 60)

    assert overflowed == COUNT // 2 - 20
    assert receiver.accepted == deliveries, "first successes in the order of publishing, none missing"
    extra = sum(Counter(receiver.ids()).values()) - COUNT
    figure(f"{COUNT} in order over 6 kills, {extra} requests more than deliveries (failures, and what was in flight)")


async def test_a_server_killed_again_and_again(site: Site, figure: Callable[[str], None]) -> None:
    """Accepted deliveries arrive in order although JetStream is killed three times meanwhile."""
    accepted: list[str] = []
    async with Flaky(fails=20) as receiver, site.consumer_process(), site.consumer_process():
        await site.destination("orders", receiver.url, ordering="fifo", timeout_s=0.2, retry_schedule_s=[0.02] * 30)
        for round_ in range(3):
            accepted += [await site.deliver("orders") for _ in range(60)]
            await until(lambda round_=round_: len(receiver.accepted) >= 60 * round_ + 20, 60)  # type: ignore[misc]
            await site.server.kill()
            await site.server.restart()
            await until(lambda: site.jetstream.connection.is_connected, 20)
        await until(site.is_settled, 90)

    assert receiver.accepted == accepted
    figure(f"{len(accepted)} in order over 3 server kills")


@pytest.mark.long
@pytest.mark.parametrize("stream", [streams.WORK, streams.ORDERED], ids=lambda stream: stream.name)
async def test_a_leader_killed_during_an_ordered_queue(
    tmp_path: Path, figure: Callable[[str], None], stream: streams.StreamConfig
) -> None:
    """Accepted deliveries arrive in order although the leader of the stream dies twice and replicas lag."""
    accepted: list[str] = []
    async with (
        cluster(tmp_path / "nats") as nodes,
        Flaky(fails=10) as receiver,
        Site(tmp_path, nodes[0], nats_replicas="3", work_per_destination="20") as site,
    ):
        await site.destination("orders", receiver.url, ordering="fifo", timeout_s=0.2, retry_schedule_s=[0.02] * 30)
        accepted += [await _deliver(site) for _ in range(50)]
        async with site.consumer_process(), site.consumer_process():
            for _ in range(2):
                wanted = len(accepted) - 30
                await until(lambda wanted=wanted: len(receiver.accepted) >= wanted, 60)  # type: ignore[misc]
                leader = await until(lambda: leader_of(site.jetstream.connection, stream.name, nodes), 20)
                assert leader is not None
                await leader.kill()
                async with asyncio.timeout(60):
                    accepted += [await _deliver(site) for _ in range(50)]
                await leader.start()
            await until(lambda: set(receiver.accepted) >= set(accepted), 60)

    assert receiver.accepted == accepted
    figure(f"{len(accepted)} in order over 2 kills of the leader of {stream.name}")


async def _deliver(site: Site) -> str:
    """Repeat the request with one id until the server accepts it, as every producer does."""
    delivery = new_delivery_id()
    while True:
        with contextlib.suppress(JetStreamError):
            return await site.deliver("orders", delivery=delivery)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param("delivered at once", marks=pytest.mark.long),
        "tried again",
        pytest.param("given up", marks=pytest.mark.long),
    ],
)
async def test_a_kill_between_any_two_steps_of_an_ordered_queue(
    site: Site, receiver: Scripted, figure: Callable[[str], None], step: str, outcome: str
) -> None:
    """A kill before any step keeps the order and one result per attempt; only an unrecorded attempt is repeated."""
    receiver.script = {"delivered at once": [200], "tried again": [503, 200], "given up": [503]}[outcome]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[0.1])
    deliveries = [await site.deliver("orders") for _ in range(10)]
    for count in (1, 4):
        dying = await Process.start(site.environ, step, str(count), module="tests.support.crash")
        assert await asyncio.wait_for(dying.wait(), 40) == -signal.SIGKILL, dying.output.decode()

    async with site.consumer_process():
        await until(site.is_settled, 40)

    results = await site.results()
    recorded = Counter((r.delivery, r.attempt) for r in results if r.outcome is not Outcome.SUPPRESSED)
    extra = len(receiver.seen) - sum(recorded.values())
    assert list(dict.fromkeys(receiver.ids())) == deliveries
    assert {delivery for delivery, _ in recorded} == set(deliveries)
    assert set(recorded.values()) == {1}, "one result for each attempt"
    assert 0 <= extra <= 2, "one head for each death"
    figure(f"10 in order, {extra} sent twice by 2 deaths")
