"""`python -m bench.fairness`: latency of other tenants while the backlogs of hostile tenants wait.

The hostile tenants have a flood of deliveries for receivers that need seconds, are silent, drip, reset the connection
or answer with 1 GiB. The other tenants get deliveries at a steady rate, and the bench measures the time of each from
publish to receipt.
"""

import asyncio
import contextlib
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from bench.harness.command import run
from bench.harness.comparison import say
from bench.harness.errors import BenchError
from consumers.worker.fair_scheduler import MAX_SHARE_OF_FREE_SLOTS
from messaging.publication import Publication, PublishAck
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import subjects
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id
from tests.support.site import NAMESPACE, Process, Site, document
from tests.support.waiting import until

IN_FLIGHT: Final = 512
SILENT_S: Final = 3600.0
KINDS: Final = ("slow", "silent", "drip", "reset", "big")
WANTED_P99_MS: Final = 50.0
WANTED_SHARE: Final = 0.8
"""Least share of the limit that the flood must reach; its first and last attempts are measured only in part."""


class Options(msgspec.Struct, frozen=True):
    """The command-line options."""

    flood: int
    flooders: int
    slow_s: float
    tenants: int
    rate_per_s: float
    seconds: float
    workers: int
    settle_s: float
    kind: str = "slow"
    flooding_tenants: int = 1
    max_in_flight: int = 0


class Measured(msgspec.Struct, frozen=True):
    """The result: milliseconds from publish to receipt of the other tenants, and the attempts of the flood."""

    options: Options
    delivered: int
    missing: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    longest_ms: float
    attempts: int
    attempts_due: float


class Receiver:
    """A receiver that responds at once on `/quick` and badly elsewhere, and records the time of each delivery."""

    def __init__(self, slow_s: float) -> None:
        self.slow_s = slow_s
        self.came_at: dict[str, int] = {}
        self.slow = 0
        self.port = 0

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        now, kind = time.time_ns(), request.path[1:]
        if kind == "quick":
            self.came_at.setdefault(request.headers["webhook-id"], now)
            return web.Response()
        self.slow += 1
        response = web.StreamResponse()
        match kind:
            case "slow":
                await asyncio.sleep(self.slow_s)
            case "silent":
                await asyncio.sleep(SILENT_S)
            case "reset" if request.transport is not None:
                request.transport.close()
            case "drip" | "big":
                with contextlib.suppress(ConnectionError):
                    await response.prepare(request)
                    for _ in range(1024):
                        await response.write(bytes(1 << 20) if kind == "big" else b"x")
                        await asyncio.sleep(0 if kind == "big" else 1)
                return response
            case _:
                pass
        return web.Response()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator["Receiver"]:
        """Listen on loopback."""
        application = web.Application()
        application.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


async def _flood(site: Site, options: Options) -> None:
    """Publish the backlog, pipelined: to the work stream first, and the excess to the overflow stream."""
    free, refused = asyncio.Semaphore(IN_FLIGHT), set[asyncio.Task[None]]()

    async def one(tenant: str, destination: str, delivery: str, to: str) -> None:
        def done(result: object) -> None:
            free.release()
            if not isinstance(result, PublishAck):
                again = asyncio.create_task(one(tenant, destination, delivery, subjects.overflow(tenant, destination)))
                refused.add(again)
                again.add_done_callback(refused.discard)

        await free.acquire()
        headers = {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery)}
        data = document(destination, delivery=delivery, tenant=tenant)
        site.jetstream.publisher.send(Publication(to, data, headers), done)

    for number in range(options.flood):
        tenant, destination = _flooder(number % options.flooders, options)
        # The work stream accepts the first thousand of each destination; the rest belongs to the overflow stream.
        is_due = number // options.flooders < site.settings.nats.work_per_destination
        subject = subjects.requested if is_due else subjects.overflow
        await one(tenant, destination, new_delivery_id(), subject(tenant, destination))
    for _ in range(IN_FLIGHT):
        await free.acquire()


def _flooder(number: int, options: Options) -> tuple[str, str]:
    """Return the tenant and the name of a hostile destination."""
    return f"flood-{number % options.flooding_tenants}", f"slow-{number}"


async def _pace(site: Site, options: Options) -> dict[str, int]:
    """Publish for the other tenants at their rate, and return the time of each publication."""
    published: dict[str, int] = {}
    began = time.monotonic()
    count = int(options.rate_per_s * options.seconds)
    for number in range(count):
        delay_s = began + number / options.rate_per_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        tenant, delivery = f"quick-{number % options.tenants}", new_delivery_id()
        published[delivery] = time.time_ns()
        await _deliver(site, tenant, delivery)
    return published


async def _deliver(site: Site, tenant: str, delivery: str) -> None:
    headers = {HEADER_MSG_ID: subjects.msg_id(tenant, "orders", delivery)}
    data = document("orders", delivery=delivery, tenant=tenant)
    await site.jetstream.publisher.publish(Publication(subjects.requested(tenant, "orders"), data, headers))


async def _tenant(site: Site, tenant: str) -> None:
    """Create a tenant with a secret."""
    write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=tenant, names=[tenant])
    configuration = site.jetstream.configuration
    ref = f"k8s://{NAMESPACE}/{tenant}/signing"
    await configuration.set_credential(tenant, "key", {"secret_ref": ref}, by="bench")


def _percentile(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(len(sorted_ms) * share))]


async def _run(options: Options, directory: Path) -> Measured:
    async with (
        EmbeddedNats(directory / "nats") as server,
        Receiver(options.slow_s).serve() as receiver,
        Site(directory, server, ack_wait_s="30", log_level="warning") as site,
    ):
        await _set_up(site, f"http://127.0.0.1:{receiver.port}", options)
        began = time.monotonic()
        await _flood(site, options)
        say(f"flood of {options.flood} published in {time.monotonic() - began:.1f} s")
        async with _workers(site, options.workers):
            return await _measure(site, receiver, options)


async def _set_up(site: Site, url: str, options: Options) -> None:
    """Create the tenants and their destinations."""
    for number in range(options.flooding_tenants):
        await _tenant(site, f"flood-{number}")
    set_destination = site.jetstream.configuration.set_destination
    for number in range(options.flooders):
        fields = {"url": f"{url}/{options.kind}", "credential": "key", "timeout_s": 10}
        if options.max_in_flight:
            fields["max_in_flight"] = options.max_in_flight
        await set_destination(*_flooder(number, options), fields, by="bench")
    for number in range(options.tenants):
        await _tenant(site, f"quick-{number}")
        await set_destination(f"quick-{number}", "orders", {"url": f"{url}/quick", "credential": "key"}, by="bench")


@contextlib.asynccontextmanager
async def _workers(site: Site, count: int) -> AsyncGenerator[None]:
    """Run `count` consumers."""
    processes = [await Process.start(site.environ, "consumer") for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _measure(site: Site, receiver: Receiver, options: Options) -> Measured:
    for number in range(options.tenants):  # warm up: connections, destinations
        await _deliver(site, f"quick-{number}", new_delivery_id())
    await until(lambda: len(receiver.came_at) == options.tenants, 60)
    await asyncio.sleep(options.settle_s)
    slow_before, began = receiver.slow, time.monotonic()
    published = await _pace(site, options)
    with contextlib.suppress(AssertionError):  # the result reports the missing ones
        await until(lambda: published.keys() <= receiver.came_at.keys(), 10)
    took_s, attempts = time.monotonic() - began, receiver.slow - slow_before
    times_ms = sorted((receiver.came_at[d] - at) / 1e6 for d, at in published.items() if d in receiver.came_at)
    if not times_ms:
        raise BenchError("none of the others' deliveries came")
    p50_ms, p95_ms, p99_ms, longest_ms = (_percentile(times_ms, share) for share in (0.5, 0.95, 0.99, 1))
    return Measured(
        options=options,
        delivered=len(times_ms),
        missing=len(published) - len(times_ms),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        longest_ms=longest_ms,
        attempts=attempts,
        attempts_due=_slots(site, options) * took_s / options.slow_s if options.kind == "slow" else 0,
    )


def _slots(site: Site, options: Options) -> int:
    """Return the attempts that the flood may have in flight, by the limits of destinations and tenants."""
    limits = site.settings.delivery
    shares = options.flooding_tenants * MAX_SHARE_OF_FREE_SLOTS
    each = options.max_in_flight or limits.destination_max_in_flight
    return options.workers * min(options.flooders * each, limits.max_in_flight * shares // (shares + 1))


def _tell(found: Measured) -> Sequence[str]:
    """Print the result, and return the missed goals."""
    asked = found.options
    print(
        f"{asked.tenants} tenants at {asked.rate_per_s:g}/s, beside {asked.flooding_tenants} with {asked.flood} "
        f"waiting for {asked.flooders} destinations ({asked.kind}), {asked.workers} workers"
    )
    print(f"  others: {found.delivered} delivered, {found.missing} missing")
    print(
        f"  publish to receipt, ms: p50 {found.p50_ms:.1f}, p95 {found.p95_ms:.1f}, p99 {found.p99_ms:.1f}, "
        f"longest {found.longest_ms:.1f}"
    )
    print(f"  flooders: {found.attempts} attempts; their limits allow {found.attempts_due:.0f}")
    wrong = {
        f"{found.missing} of the others' deliveries are missing": found.missing > 0,
        f"p99 is over {WANTED_P99_MS:g} ms": found.p99_ms > WANTED_P99_MS,
        "the flooders got less than their limits allow": found.attempts < found.attempts_due * WANTED_SHARE,
    }
    return [complaint for complaint, is_so in wrong.items() if is_so]


def main() -> int:
    """Run the bench. Returns 0 when no tenant was delayed, nothing is missing, and the flood got its share."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--flood", type=int, default=300_000, help="its deliveries (default %(default)s)")
        parser.add_argument("--kind", choices=KINDS, default="slow", help="how its receivers answer (%(default)s)")
        parser.add_argument("--flooding-tenants", type=int, default=1, help="tenants that flood (%(default)s)")
        parser.add_argument(
            "--max-in-flight", type=int, default=0, help="of each of their destinations; 0: the default"
        )
        parser.add_argument("--flooders", type=int, default=1, help="destinations of the tenants that flood, in all")
        parser.add_argument("--slow-s", type=float, default=5.0, help="how slow its receivers are (%(default)s)")
        parser.add_argument("--tenants", type=int, default=49, help="the others, with a destination each (%(default)s)")
        parser.add_argument("--rate-per-s", type=float, default=200.0, help="of all the others (default %(default)s)")
        parser.add_argument("--seconds", type=float, default=20.0, help="how long that is measured (%(default)s)")
        parser.add_argument("--workers", type=int, default=1, help="consumers (default %(default)s)")
        parser.add_argument(
            "--settle-s", type=float, default=0.0, help="let the flood spread first; workers share it every ten seconds"
        )

    async def measure(arguments: Namespace, directory: Path) -> Measured:
        arguments.flooders = max(arguments.flooders, arguments.flooding_tenants)
        return await _run(Options(**{name: getattr(arguments, name) for name in Options.__struct_fields__}), directory)

    return run("bench.fairness", __doc__, options, measure, _tell)


if __name__ == "__main__":
    sys.exit(main())
