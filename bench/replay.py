"""`python -m bench.replay`: how fast a hundred thousand kept deliveries are replayed, each of them accounted for.

Kept deliveries and attempt results are published as consumers publish them; then `oneprotect replay` runs as a process:
to show what it would do, to do it, to do it again (which must find nothing left), and at a rate. No consumer runs, so
that every request can be counted where it waits. Everything is on loopback and stops by itself.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from bench.harness.errors import BenchError
from consumers.retention.archive import ArchivedDelivery
from messaging import direct_get
from messaging.admin import topology
from messaging.client.connection import NatsConnection, connect
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, encode
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_CODE,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_MSG_ID,
    HEADER_OUTCOME,
    HEADER_REPLAY,
)
from tests.support.site import document

TENANT: Final = "acme"
DESTINATIONS: Final = 20
IN_FLIGHT: Final = 1024
TIMEOUT_S: Final = 120.0
RATE_PER_S: Final = 500
RATED: Final = 3000
PACK: Final = 8
"""Copies in a pack: what one worker delivers to a destination in a moment when it is busy with many."""


class Bench:
    """A nats-server with kept deliveries, and the command that replays them."""

    def __init__(self, url: str, publisher: JetStreamPublisher) -> None:
        self._environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "ONEPROTECT_NATS_URL": url
        }
        self._publisher = publisher
        self._free = asyncio.Semaphore(IN_FLIGHT)
        self._refused = 0

    async def keep(self, first: int, count: int) -> None:
        """Have `count` deliveries kept, as a consumer keeps them."""
        for number in range(first, first + count):
            destination, delivery = _names(number)
            headers = {
                HEADER_MSG_ID: f"{TENANT}.{destination}.{delivery}.a8",
                HEADER_ATTEMPT: "8",
                HEADER_FIRST_ATTEMPT_AT: "2026-11-23T20:00:00+00:00",
                HEADER_CODE: Code.HTTP_5XX.value,
                HEADER_OUTCOME: Outcome.FAILED.value,
                "content-type": "application/cloudevents+json",
            }
            body = document(destination, delivery=delivery, payload=b'{"amount": "%s"}' % (b"9" * 200))
            await self._put(Publication(subjects.failed(TENANT, destination, delivery), body, headers))
        await self._all_stored()

    async def archive(self, count: int, *, pack: int = PACK) -> None:
        """Have `count` deliveries in the archive, in packs of one destination each, as a consumer packs them."""
        for first in range(0, count, pack * DESTINATIONS):
            for offset in range(DESTINATIONS):
                numbers = range(first + offset, min(first + pack * DESTINATIONS, count), DESTINATIONS)
                copies = [_copy(number) for number in numbers]
                if copies:
                    destination, _ = _names(first + offset)
                    packed = msgspec.msgpack.encode(copies)
                    await self._put(Publication(subjects.delivered(TENANT, destination), packed, {}))
        await self._all_stored()

    async def record(self, deliveries: int, attempts: int) -> None:
        """Have `attempts` results on record, of the same deliveries in turn."""
        for number in range(attempts):
            attempt, delivery_number = divmod(number, deliveries)
            destination, delivery = _names(delivery_number)
            result = AttemptResult(
                delivery=delivery,
                destination=destination,
                event_type="invoice.paid",
                attempt=1 + attempt % 8,
                outcome=Outcome.RETRY_SCHEDULED,
                code=Code.HTTP_5XX,
                started_at=datetime.now(UTC),
                duration_ms=12.5,
                worker="bench-1-abcd",
                http_status=503,
                next_attempt_at=datetime.now(UTC),
                signed_with=("current",),
                url_host="receiver.example.com",
            )
            event = DeliveryAttempted(
                specversion="1.0",
                id=f"{delivery}.{attempt}",
                source="/bench",
                time=datetime.now(UTC),
                tenant=TENANT,
                data=result,
            )
            await self._put(Publication(subjects.attempted(TENANT, destination, delivery), encode(event), {}))
        await self._all_stored()

    async def replay(self, *options: str) -> tuple[float, float, Any]:
        """Run `oneprotect replay`: seconds it took, its memory in MB at most, and what it printed."""
        began, printed = time.monotonic(), b""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oneprotect", "replay", "--tenant", TENANT, "--json", *options),
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
        )
        peak_mb = asyncio.create_task(_peak_mb(process.pid))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                printed, _ = await process.communicate()
        except TimeoutError:
            process.kill()
        took_s = time.monotonic() - began
        if await process.wait():
            raise BenchError(f"`replay {' '.join(options)}` ended with {process.returncode} after {took_s:.0f} s")
        return took_s, await peak_mb, msgspec.json.decode(printed)

    async def _put(self, publication: Publication) -> None:
        await self._free.acquire()
        self._publisher.send(publication, self._on_stored)

    def _on_stored(self, result: object) -> None:
        self._refused += not isinstance(result, PublishAck)
        self._free.release()

    async def _all_stored(self) -> None:
        for _ in range(IN_FLIGHT):
            await self._free.acquire()
        for _ in range(IN_FLIGHT):
            self._free.release()
        if self._refused:
            raise BenchError(f"{self._refused} messages could not be stored")


def _copy(number: int) -> ArchivedDelivery:
    destination, delivery = _names(number)
    body = document(destination, delivery=delivery, payload=b'{"amount": "%s"}' % (b"9" * 200))
    return ArchivedDelivery(body, {"content-type": "application/cloudevents+json"})


def _names(number: int) -> tuple[str, str]:
    return f"orders-{number % DESTINATIONS}", f"dlv_{number:026d}"


async def _peak_mb(pid: int) -> float:
    """The most memory that a process had, when it has ended."""
    peak_kb, status = 0, Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = (await asyncio.to_thread(status.read_text)).splitlines()
        except OSError:
            return peak_kb / 1024
        found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        if not found:  # it has ended
            return peak_kb / 1024
        peak_kb = max(peak_kb, *found)
        await asyncio.sleep(0.1)


async def _run(kept: int, attempts: int) -> None:
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with (
            EmbeddedNats(Path(directory) / "nats") as server,
            connect(server.url, name="bench") as connection,
            JetStreamPublisher(connection) as publisher,
        ):
            await topology.apply(connection, replicas=1, work_per_destination=1000, ack_wait_s=30)
            bench = Bench(server.url, publisher)
            began = time.monotonic()
            await bench.keep(0, kept)
            await bench.record(kept, attempts)
            print(f"{kept} kept, {attempts} attempts on record, after {time.monotonic() - began:.0f} s")

            took_s, mb, shown = await bench.replay("--dry-run")
            _expect(shown["replayable"] == kept, f"it would replay {shown['replayable']} of {kept}")
            print(f"--dry-run: {took_s:.1f} s, {mb:.0f} MB")

            took_s, mb, done = await bench.replay()
            _expect(done["replayed"] == kept, f"{done['replayed']} of {kept} replayed")
            requested = await _requested(connection, done["replay"])
            _expect(len(requested) == kept, f"{len(requested)} requested of {kept}")
            running_s = _running_s(done)
            print(f"replay: {took_s:.1f} s with Python's start, {running_s:.1f} s without: {kept / running_s:.0f}/s")
            print(f"  {mb:.0f} MB; each of {kept} requested once")

            took_s, mb, again = await bench.replay("--since", "1h")
            _expect(again["replayed"] == 0, f"{again['replayed']} replayed twice")
            print(f"again, before anything was attempted: {took_s:.1f} s, {mb:.0f} MB; {again['skipped']} left alone")

            between = datetime.now(UTC)
            await bench.keep(kept, RATED)
            since = between.isoformat().replace("+00:00", "Z")
            _, _, rated = await bench.replay("--since", since, "--rate", str(RATE_PER_S))
            _expect(rated["replayed"] == RATED, f"{rated['replayed']} of {RATED} replayed")
            times = sorted((await _requested(connection, rated["replay"])).values())
            rate_per_s = (RATED - 1) / (times[-1] - times[0]).total_seconds()
            print(f"--rate {RATE_PER_S}: {rate_per_s:.1f}/s")


async def _run_delivered(count: int) -> None:
    """Store delivered deliveries, with one result on record for each, without a consumer."""
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with (
            EmbeddedNats(Path(directory) / "nats") as server,
            connect(server.url, name="bench") as connection,
            JetStreamPublisher(connection) as publisher,
        ):
            await topology.apply(connection, replicas=1, work_per_destination=1000, ack_wait_s=30)
            bench = Bench(server.url, publisher)
            await bench.record(count, count)
            await bench.archive(count)

            took_s, mb, shown = await bench.replay("--delivered", "--dry-run")
            _expect(shown["replayable"] == count, f"it would replay {shown['replayable']} of {count}")
            print(f"--delivered --dry-run: {took_s:.1f} s, {mb:.0f} MB")

            took_s, mb, done = await bench.replay("--delivered")
            _expect(done["replayed"] == count, f"{done['replayed']} of {count} replayed")
            requested = await _requested(connection, done["replay"])
            _expect(len(requested) == count, f"{len(requested)} requested of {count}")
            running_s = _running_s(done)
            print(f"replay of {count} delivered: {running_s:.1f} s: {count / running_s:.0f}/s, {mb:.0f} MB; each once")


async def _requested(connection: NatsConnection, replay: str) -> dict[str, datetime]:
    """Return the requests of a replay by `Nats-Msg-Id` and stream, with their times."""
    requested: dict[str, datetime] = {}
    for stream in (streams.WORK, streams.OVERFLOW):
        async for record in direct_get.scan(connection, stream.name, ">", batch=1024):
            if record.headers.get(HEADER_REPLAY) == replay:
                name = record.headers[HEADER_MSG_ID]
                _expect(name not in requested, f"{name} was requested twice")
                requested[name] = record.stored_at
    return requested


def _running_s(printed: object) -> float:
    row = msgspec.convert(printed, Row)
    return (row.ended_at - row.started_at).total_seconds()


class Row(msgspec.Struct):
    """Of what a replay prints, its times."""

    started_at: datetime
    ended_at: datetime


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise BenchError(problem)


def main() -> int:
    """Run it and return the exit code: 0 when each delivery was requested once."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--kept", type=int, default=100_000)
    parser.add_argument("--attempts", type=int, default=200_000)
    parser.add_argument("--only-delivered", action="store_true", help="only the replay of what was delivered")
    arguments = parser.parse_args()
    try:
        if not arguments.only_delivered:
            uvloop.run(_run(arguments.kept, arguments.attempts))
        uvloop.run(_run_delivered(arguments.kept))
    except BenchError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
