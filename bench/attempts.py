"""`python -m bench.attempts`: time to read pages of attempts while a million or more are on record.

The bench publishes results as consumers do: most for one busy tenant, some for one destination of a thousand, a few
with a rare code. Then it reads pages as the API and the console do, each many times.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil
import uvloop

from bench.harness.errors import BenchError
from consumers.attempts import search
from consumers.attempts.search import AttemptFilter, RecordedAttempt
from messaging.admin import topology
from messaging.client.connection import NatsConnection, connect
from messaging.client.errors import JetStreamError
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from messaging.reverse_reader import PageResult
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, encode

TENANT: Final = "acme"
OTHER_TENANT: Final = "globex"
DESTINATIONS: Final = 1000
RARE_EVERY: Final = 100_000
IN_FLIGHT: Final = 2048
ROUNDS: Final = 30


async def fill(publisher: JetStreamPublisher, count: int) -> float:
    """Publish `count` results, and return the seconds that it took. Raises `BenchError`."""
    free, refused = asyncio.Semaphore(IN_FLIGHT), 0

    def on_stored(result: PublishAck | JetStreamError) -> None:
        nonlocal refused
        refused += isinstance(result, JetStreamError)
        free.release()

    began = time.monotonic()
    for number in range(count):
        await free.acquire()
        publisher.send(_result(number), on_stored)
    for _ in range(IN_FLIGHT):
        await free.acquire()
    if refused:
        raise BenchError(f"{refused} results were not stored")
    return time.monotonic() - began


def _result(number: int) -> Publication:
    tenant = OTHER_TENANT if number % 10 == 9 else TENANT
    destination, delivery = f"destination-{number % DESTINATIONS:04}", f"dlv_{number:026}"
    code = Code.HTTP_410 if number % RARE_EVERY == 77 else Code.HTTP_5XX if number % 20 == 0 else Code.HTTP_2XX
    now = datetime.now(UTC)
    result = AttemptResult(
        delivery=delivery,
        destination=destination,
        event_type="invoice.paid",
        attempt=1,
        outcome=Outcome.DELIVERED if code is Code.HTTP_2XX else Outcome.FAILED,
        code=code,
        started_at=now,
        duration_ms=12.5,
        worker="bench-1-abcd",
        http_status=200,
        request_bytes=490,
        signed_with=("current",),
        secret_version="0b5e2f9e-3c3b-4a57-9a0e-6f3c0f3f2f11/4711",
        url_host="receiver.example.com",
    )
    event = DeliveryAttempted(
        specversion="1.0", id=f"{delivery}.1", source="/bench", time=now, tenant=tenant, data=result
    )
    return Publication(subjects.attempted(tenant, destination, delivery), encode(event), {})


async def measure(name: str, read: Callable[[], Awaitable[PageResult[RecordedAttempt]]], *, expect: int | None) -> None:
    """Print the duration of `read`. Raises `BenchError` when the number of results is unexpected."""
    times_ms: list[float] = []
    found: PageResult[RecordedAttempt] | None = None
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = await read()
        times_ms.append((time.perf_counter() - began) * 1000)
        if expect is not None and len(found.items) != expect:
            raise BenchError(f"{name}: {len(found.items)} found, not {expect}")
    times_ms.sort()
    count = len(found.items) if found else 0
    print(f"{name}: {count} found, p50 {statistics.median(times_ms):.1f} ms, longest {times_ms[-1]:.1f} ms")


async def pages(connection: NatsConnection, count: int, began: datetime, ended: datetime) -> None:
    """Measure one page after another."""
    acme = AttemptFilter(tenant=TENANT)
    one = AttemptFilter(tenant=TENANT, destination="destination-0500")
    rare = AttemptFilter(tenant=TENANT, codes=frozenset({Code.HTTP_410}))
    middle = began + (ended - began) / 2
    between = AttemptFilter(tenant=TENANT, since=middle, until=middle + timedelta(seconds=1))
    failed = AttemptFilter(tenant=TENANT, outcomes=frozenset({Outcome.FAILED}))
    await measure("first page of a tenant", lambda: search.read_page(connection, acme), expect=50)
    await measure("a page in the middle", lambda: search.read_page(connection, acme, before=count // 2), expect=50)
    await measure("the last page", lambda: search.read_page(connection, acme, before=40), expect=36)
    await measure("one destination of a thousand", lambda: search.read_page(connection, one), expect=50)
    await measure("a second in the middle, by time", lambda: search.read_page(connection, between), expect=50)
    await measure("one outcome, one in twenty", lambda: search.read_page(connection, failed), expect=50)
    await measure("a code that is one in 100,000: one look", lambda: search.read_page(connection, rare), expect=None)
    await measure(
        "a destination that has none",
        lambda: search.read_page(connection, AttemptFilter(tenant=TENANT, destination="none")),
        expect=0,
    )
    await _all_rare(connection, rare, count)


async def _all_rare(connection: NatsConnection, rare: AttemptFilter, count: int) -> None:
    """Read pages until the last one."""
    before, looks, found, began = None, 0, 0, time.perf_counter()
    while True:
        part = await search.read_page(connection, rare, before=before)
        looks, found, before = looks + 1, found + len(part.items), part.cursor
        if before is None:
            break
    if found != count // RARE_EVERY:
        raise BenchError(f"{found} found of {count // RARE_EVERY}")
    print(f"  all {found} of them: {looks} looks, {time.perf_counter() - began:.1f} s")


async def _run(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with (
            EmbeddedNats(Path(directory)) as server,
            connect(server.url, name="bench") as connection,
            JetStreamPublisher(connection) as publisher,
        ):
            await topology.apply(connection, replicas=1, work_per_destination=1000, ack_wait_s=30)
            began = datetime.now(UTC)
            took_s = await fill(publisher, count)
            size = (await connection.api(f"STREAM.INFO.{streams.ATTEMPTS.name}"))["state"]["bytes"]
            memory_mb = psutil.Process(server.pid).memory_info().rss / 1e6
            print(f"{count} on record in {took_s:.0f} s, {size / 1e6:.0f} MB on disk, server {memory_mb:.0f} MB")
            await pages(connection, count, began, datetime.now(UTC))


def main() -> int:
    """Run the bench and return the exit code: 0 when each page held the expected results."""
    parser = argparse.ArgumentParser(prog="python -m bench.attempts", description=__doc__)
    parser.add_argument("--attempts", type=int, default=1_000_000)
    arguments = parser.parse_args()
    try:
        uvloop.run(_run(arguments.attempts))
    except BenchError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
