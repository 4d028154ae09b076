"""kill -9 of the consumer and of the server during deliveries: every accepted delivery reaches an outcome."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from schemas.codes import Outcome
from tests.support.crash import STEPS
from tests.support.receiver import Answer, Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

Figure = Callable[[str], None]


def _duplicates(receiver: Scripted) -> int:
    return sum(count - 1 for count in Counter(receiver.ids()).values())


async def _delivered(site: Site) -> Counter[str]:
    return Counter(r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED)


async def test_a_consumer_killed_while_it_sends(site: Site, receiver: Scripted, figure: Figure) -> None:
    """The next consumer repeats requests in flight with their ids and sends the others once."""
    in_flight = 8
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=in_flight)
    async with site.consumer_process() as consumer:
        deliveries = [await site.deliver("orders") for _ in range(60)]
        await until(lambda: len(receiver.seen) == in_flight, 20)
        consumer.kill()
        await consumer.wait()
    receiver.hold.set()

    async with site.consumer_process():
        await until(site.is_settled, 30)

    assert set(await _delivered(site)) == set(deliveries)
    assert set((await _delivered(site)).values()) == {1}, "one delivered result each"
    assert _duplicates(receiver) == in_flight
    figure(f"60 accepted, 60 delivered, 0 lost, {_duplicates(receiver)} sent twice ({in_flight} were in flight)")


async def test_consumers_killed_again_and_again(site: Site, receiver: Scripted, figure: Figure) -> None:
    """Every delivery is delivered in the end, over five kills under load with failures and retries."""
    receiver.script = [503, 200]
    await site.destination("orders", receiver.url, max_in_flight=16, retry_schedule_s=[0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    deliveries: list[str] = []
    for kill in range(5):
        async with site.consumer_process() as consumer:
            deliveries += [await site.deliver("orders") for _ in range(60)]
            await until(lambda kill=kill: len(receiver.seen) >= 40 * (kill + 1), 30)  # type: ignore[misc]
            consumer.kill()
            await consumer.wait()

    async with site.consumer_process():
        await until(site.is_settled, 60)

    assert set(await _delivered(site)) == set(deliveries)
    needed = 2 * len(deliveries)
    extra = len(receiver.seen) - needed
    assert extra >= 0
    figure(f"{len(deliveries)} accepted, all delivered after 5 kills, 0 lost, {extra} of {needed} requests sent twice")


async def test_a_server_killed_under_load(site: Site, receiver: Scripted, figure: Figure) -> None:
    """Every acknowledged request is delivered although JetStream is killed and restarted meanwhile."""
    receiver.script = [Answer(503, {"retry-after": "1"}), 200]
    await site.destination("orders", receiver.url, max_in_flight=16, retry_schedule_s=[0.2] * 6)
    accepted: list[str] = []
    async with site.consumer_process():
        for round_ in range(3):
            accepted += [await site.deliver("orders") for _ in range(60)]
            await until(lambda round_=round_: len(receiver.seen) >= 30 * (round_ + 1), 30)  # type: ignore[misc]
            await site.server.kill()
            await site.server.restart()
            await until(lambda: site.jetstream.connection.is_connected, 20)
        await until(site.is_settled, 60)

    delivered = await _delivered(site)
    assert set(delivered) == set(accepted)
    extra = len(receiver.seen) - 2 * len(accepted)
    figure(f"{len(accepted)} accepted, all delivered after 3 server kills, 0 lost, {extra} requests sent twice")


@pytest.mark.retry
async def test_retries_that_come_due_without_consumer_and_server(site: Site, receiver: Scripted) -> None:
    """Schedules that come due while consumer and server are down fire after the restart."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[1])
    async with site.consumer_process() as consumer:
        deliveries = [await site.deliver("orders") for _ in range(10)]
        await until(lambda: len(receiver.seen) == 10, 20)
        await until(lambda: _all_scheduled(site, 10))
        before = await site.results()
        consumer.kill()
        await consumer.wait()
    await site.server.kill()
    due = max(result.next_attempt_at for result in before if result.next_attempt_at)
    await until(lambda: datetime.now(UTC) > due)
    await site.server.restart()

    async with site.consumer_process():
        await until(site.is_settled, 20)

    assert set(await _delivered(site)) == set(deliveries)
    assert len(receiver.seen) == 20


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("outcome", ["delivered at once", "tried again", "given up"])
async def test_death_between_any_two_steps_of_the_path(
    site: Site, receiver: Scripted, figure: Figure, step: str, outcome: str
) -> None:
    """A kill before any step loses nothing; only a kill between the response and its result repeats a request."""
    receiver.script = {"delivered at once": [200], "tried again": [503, 200], "given up": [410]}[outcome]
    in_flight = 4
    await site.destination("orders", receiver.url, max_in_flight=in_flight, retry_schedule_s=[0.2, 0.2, 0.2])
    deliveries = [await site.deliver("orders") for _ in range(20)]
    for count in (1, 5):
        dying = await Process.start(site.environ, step, str(count), module="tests.support.crash")
        assert await asyncio.wait_for(dying.wait(), 20) == -signal.SIGKILL, dying.output.decode()

    async with site.consumer_process():
        await until(site.is_settled, 30)

    ended = Outcome.FAILED if outcome == "given up" else Outcome.DELIVERED
    results = await site.results()
    recorded = Counter((r.delivery, r.attempt) for r in results if r.outcome is not Outcome.SUPPRESSED)
    skipped = Counter(r.delivery for r in results if r.outcome is Outcome.SKIPPED)
    extra = len(receiver.seen) - sum(recorded.values()) + sum(skipped.values())
    assert {r.delivery for r in results if r.outcome is ended or r.outcome is Outcome.SKIPPED} == set(deliveries)
    assert set(recorded.values()) == {1}, "one result for each attempt"
    # An answer frees its slot before its result is written to NATS. So a death repeats what was in flight, and as many
    # requests whose answers came in the loop's last turn.
    assert 0 <= extra <= 2 * 2 * in_flight, "no more than what two consumers had not written when they died"
    figure(f"20 accepted, 0 lost, {extra} sent twice by 2 deaths")


async def _all_scheduled(site: Site, count: int) -> bool:
    return len([r for r in await site.results() if r.outcome is Outcome.RETRY_SCHEDULED]) == count
