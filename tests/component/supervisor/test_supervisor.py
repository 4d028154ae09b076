"""Several consumers under a supervisor: they share work, restart without loss, and stop together."""

import asyncio
import json
import re
import socket
import sys
import time
from functools import partial
from pathlib import Path

import aiohttp
import psutil
import pytest

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from oneprotect.supervisor.supervisor import Supervisor
from schemas.codes import Outcome
from telemetry.metrics import definitions
from tests.support.ops import Ops
from tests.support.receiver import Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

RUNNING = (definitions.SUPERVISED, definitions.SUPERVISED_WANTED)


def children(consumer: Process) -> list[psutil.Process]:
    """The consumers of a supervisor."""
    return [child for child in psutil.Process(consumer.process.pid).children() if "--report-to" in child.cmdline()]


async def started(consumer: Process, count: int) -> None:
    """Wait until so many consumers have started."""
    await until(lambda: consumer.output.count(b"consumer.started") >= count, 30)


async def test_a_consumer_that_is_killed_is_started_again_and_nothing_is_lost(site: Site, receiver: Scripted) -> None:
    """Another consumer delivers the messages of a killed one, and the supervisor restarts it."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=5)

    async with site.consumer_process("--processes", "2") as consumer:
        await started(consumer, 2)
        deliveries = [await site.deliver("orders") for _ in range(60)]
        await until(lambda: len(receiver.seen) >= 10, 20)
        victim = children(consumer)[0]
        victim.kill()
        await until(lambda: consumer.says("process.ended"))
        receiver.hold.set()
        await started(consumer, 3)
        await until(site.is_settled, 60)
        alive = children(consumer)
        consumer.terminate()
        code = await consumer.wait()

    assert set(receiver.ids()) == set(deliveries)
    assert {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED} == set(deliveries)
    assert len(alive) == 2
    assert victim.pid not in {child.pid for child in alive}
    assert code == 0, consumer.output.decode()


async def test_sigterm_drains_all_consumers(site: Site, receiver: Scripted) -> None:
    """Each consumer finishes attempts in flight and returns the others, and the supervisor exits with 0."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=3)

    async with site.consumer_process("--processes", "2", "--json") as consumer:
        await started(consumer, 2)
        for _ in range(30):
            await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 6, 20)
        ours = children(consumer)
        consumer.terminate()
        await until(lambda: consumer.output.count(b"drain.started") == 2)
        receiver.hold.set()
        began = time.monotonic()
        code = await consumer.wait()

    assert code == 0, consumer.output.decode()
    assert time.monotonic() - began < 15
    assert not any(child.is_running() for child in ours)
    assert len(receiver.seen) == 6
    assert [r.outcome for r in await site.results()] == [Outcome.DELIVERED] * 6
    records = [json.loads(line) for line in consumer.output.splitlines()]
    assert {"process.started", "drain.finished", "consumer.stopped"} <= {record["event"] for record in records}


async def test_metrics_of_all_consumers_are_merged(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """One port serves all metrics, and counts of a dead consumer stay in the sums."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def delivered(session: aiohttp.ClientSession) -> int:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            found = re.search(r'\noneprotect_deliveries_total{outcome="delivered"} (\d+)\n', await response.text())
        return int(found[1]) if found else -1

    async with (
        Site(tmp_path, nats_server, ops_port=str(port)) as site,
        site.consumer_process("--processes", "2") as consumer,
        aiohttp.ClientSession() as session,
    ):
        await site.destination("orders", receiver.url)
        await started(consumer, 2)
        for _ in range(20):
            await site.deliver("orders")
        await until(site.is_settled, 20)

        async def all_counted() -> bool:
            return await delivered(session) == 20

        await until(all_counted, 20)
        for child in children(consumer):
            child.kill()
        await until(lambda: consumer.output.count(b"process.ended") == 2)
        after = await delivered(session)
        await started(consumer, 4)

        async def is_ready() -> bool:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200

        await until(is_ready, 10)

    assert after == 20


async def test_consumers_that_are_started_again_are_counted(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The metrics show running and wanted processes, and restarts."""
    ops = Ops(free_port())

    async def figures() -> list[float | None]:
        return [await ops.value(one.name) for one in (*RUNNING, definitions.RESTARTS)]

    async def shown(*expected: float) -> bool:
        return await figures() == [*expected]

    async with (
        Site(tmp_path, nats_server, ops_port=str(ops.port)) as site,
        site.consumer_process("--processes", "2") as consumer,
    ):
        await until(lambda: shown(2, 2, 0), 30)
        for times in (1, 2):
            children(consumer)[0].kill()
            await until(partial(shown, 2, 2, times), 30)
        consumer.terminate()
        code = await consumer.wait()

    assert consumer.output.count(b"process.started") == 4
    assert code == 0, consumer.output.decode()


async def test_one_that_ends_at_once_is_started_again_and_does_not_count_as_running() -> None:
    """A command that fails at start is restarted after pauses."""
    command, environ = [sys.executable, "-c", "raise SystemExit(3)"], dict[str, str]()
    supervisor, stop = Supervisor(command, environ, count=1, drain_timeout_s=1), asyncio.Event()

    def figures() -> list[float]:
        values = supervisor.snapshot().values
        return [values[one.name, ()] for one in (*RUNNING, definitions.RESTARTS)]

    before = figures()
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: figures()[0] == 1)
    await until(lambda: figures()[2] == 2, 20)
    await until(lambda: figures() == [0, 1, 2], 20)
    stop.set()

    assert before == [0, 1, 0]
    assert await running


@pytest.mark.parametrize("is_nats_up", [True, False])
async def test_consumers_end_with_their_supervisor(site: Site, is_nats_up: bool) -> None:
    """When the supervisor is killed, all consumers end."""
    async with site.consumer_process("--processes", "2") as consumer:
        await started(consumer, 2)
        ours = children(consumer)
        if not is_nats_up:
            await site.server.kill()
        consumer.kill()
        await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in ours), 20)

    assert len(ours) == 2


async def test_an_invalid_number_is_refused(site: Site) -> None:
    """An invalid number of processes exits with code 2 and names the accepted values."""
    for text in ("0", "many", "257"):
        process = await Process.start(site.environ_of("consumer"), "consumer", "--processes", text)

        assert await process.wait() == 2
        assert process.says("auto")
