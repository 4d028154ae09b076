"""`python -m bench.schedules`: what a million retries that wait cost the server, and how late they fire.

Schedules are published as a consumer does, for times spread over three days; the last thousand come due while the run
lasts, across a restart of the server by kill -9. Everything runs on loopback and stops by itself.
"""

import asyncio
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

from bench.harness.command import run
from bench.harness.comparison import say
from messaging import direct_get
from messaging.admin import topology
from messaging.client.connection import NatsConnection, connect
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.headers import HEADER_ATTEMPT, HEADER_MSG_ID, HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET
from tests.support.site import document
from tests.support.waiting import until

TENANT: Final = "acme"
IN_FLIGHT: Final = 1024
DESTINATIONS: Final = 1000
DUE: Final = 1000


class Measured(Struct, frozen=True):
    """The result: `memory_mb` of the server before, with the schedules and restarted; `late_s` least, median, most."""

    count: int
    per_s: float
    failed: int
    kept: int
    memory_mb: tuple[float, float, float]
    disk_mb: float
    at_rest_percent: float
    restart_s: float
    late_s: tuple[float, float, float]


class Schedules:
    """Publishes schedules, pipelined."""

    def __init__(self, publisher: JetStreamPublisher) -> None:
        self._publisher = publisher
        self._free = asyncio.Semaphore(IN_FLIGHT)
        self.failed = 0

    async def add(self, number: int, at: datetime) -> None:
        """Publish a schedule for `at`."""
        destination, delivery = f"d{number % DESTINATIONS}", f"dlv_{number}"
        headers = {
            HEADER_MSG_ID: f"{TENANT}.{destination}.{delivery}.a2",
            HEADER_SCHEDULE: f"@at {at.isoformat().replace('+00:00', 'Z')}",
            HEADER_SCHEDULE_TARGET: subjects.due(TENANT, destination),
            HEADER_ATTEMPT: "2",
        }
        await self._free.acquire()
        subject = subjects.scheduled(TENANT, destination, delivery)
        self._publisher.send(Publication(subject, document(destination, delivery=delivery), headers), self._done)

    def _done(self, result: object) -> None:
        self._free.release()
        self.failed += not isinstance(result, PublishAck)

    async def finish(self) -> None:
        """Wait for the last acknowledgement."""
        for _ in range(IN_FLIGHT):
            await self._free.acquire()
        self._free = asyncio.Semaphore(IN_FLIGHT)


async def _run(arguments: Namespace, directory: Path) -> Measured:
    async with (
        EmbeddedNats(directory) as server,
        connect(server.url, name="bench") as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        await topology.apply(connection, replicas=1, work_per_destination=1000, ack_wait_s=30)
        return await _measure(arguments.count, server, connection, publisher, directory)


async def _measure(
    count: int, server: EmbeddedNats, connection: NatsConnection, publisher: JetStreamPublisher, directory: Path
) -> Measured:
    schedules = Schedules(publisher)
    base_mb = _rss_mb(server)
    now, began = datetime.now(UTC), time.monotonic()
    for number in range(count):
        await schedules.add(number, now + timedelta(hours=1) + timedelta(hours=71) * (number / count))
    await schedules.finish()
    took_s = time.monotonic() - began
    disk_mb = await asyncio.to_thread(_size_mb, directory)
    say(f"{count} schedules published in {took_s:.1f} s")
    with_them_mb = _rss_mb(server)
    process = psutil.Process(server.pid)
    process.cpu_percent()
    await asyncio.sleep(5)
    at_rest = process.cpu_percent()

    at = datetime.now(UTC) + timedelta(seconds=10)
    for number in range(count, count + DUE):
        await schedules.add(number, at)
    await schedules.finish()
    began = time.monotonic()
    await server.kill()
    await server.restart()
    restart_s = time.monotonic() - began
    say(f"restarted after kill -9 in {restart_s:.1f} s")
    await until(lambda: connection.is_connected, 60)
    late = await until(lambda: _lateness(connection, at), 60)
    kept = int((await connection.api(f"STREAM.INFO.{streams.RETRIES.name}"))["state"]["messages"])
    return Measured(
        count=count,
        per_s=count / took_s,
        failed=schedules.failed,
        kept=kept,
        memory_mb=(base_mb, with_them_mb, _rss_mb(server)),
        disk_mb=disk_mb,
        at_rest_percent=at_rest,
        restart_s=restart_s,
        late_s=(late[0], late[DUE // 2], late[-1]),
    )


async def _lateness(connection: NatsConnection, at: datetime) -> list[float]:
    """Seconds between the time that was asked for and the firing of each, once all have fired."""
    fired = direct_get.scan(connection, streams.RETRIES.name, "oneprotect.delivery.due.*.*")
    late = sorted([(record.stored_at - at).total_seconds() async for record in fired])
    return late if len(late) == DUE else []


def _size_mb(directory: Path) -> float:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6


def _rss_mb(server: EmbeddedNats) -> float:
    return psutil.Process(server.pid).memory_info().rss / 1e6


def _tell(found: Measured) -> Sequence[str]:
    """Print it; returns what is not as wanted."""
    base_mb, with_them_mb, restarted_mb = found.memory_mb
    print(f"{found.count} schedules published at {found.per_s:.0f}/s, {found.failed} failed")
    print(f"server memory {base_mb:.0f} -> {with_them_mb:.0f} MB, disk {found.disk_mb:.0f} MB")
    print(f"server at rest: {found.at_rest_percent:.1f} % of a core")
    print(f"restart after kill -9: {found.restart_s:.1f} s, memory then {restarted_mb:.0f} MB")
    first, median, last = found.late_s
    print(f"{DUE} due at one instant: first {first:.2f} s, median {median:.2f} s, last {last:.2f} s late")
    wrong = {
        f"{found.failed} were not stored": found.failed > 0,
        f"{found.kept} messages are in the stream, not {found.count + DUE}": found.kept != found.count + DUE,
    }
    return [complaint for complaint, is_so in wrong.items() if is_so]


def main() -> int:
    """Run it and return the exit code: 0 when no schedule is missing."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=1_000_000, help="retries that wait (default %(default)s)")

    return run("bench.schedules", __doc__, options, _run, _tell)


if __name__ == "__main__":
    sys.exit(main())
