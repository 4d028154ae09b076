"""`python -m bench.fairness`: does one tenant's backlog on a slow receiver cost the others anything?

A flood waits for receivers that take seconds, all of them one tenant's; meanwhile others, each a tenant of its own, get
deliveries at a steady rate, and the time of each one from publish to receipt is measured. Everything runs on loopback
and stops by itself.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from aiohttp import web

from bench.command import write_json
from consumers.turns import SHARE
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.sample import write_sample_secrets
from oneprotect.jetstream.publish import Publication, Stored
from schemas import subjects
from schemas.ids import new_delivery_id
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until

IN_FLIGHT: Final = 512
WANTED_P99_MS: Final = 50.0
WANTED_SHARE: Final = 0.8
"""Of what their limits allow: the first and the last attempts of the measured time are only partly in it."""


class Options(msgspec.Struct, frozen=True):
    """What is asked for."""

    flood: int
    flooders: int
    slow_s: float
    tenants: int
    rate_per_s: float
    seconds: float
    workers: int
    settle_s: float


class Measured(msgspec.Struct, frozen=True):
    """What it came to: milliseconds from publish to receipt of the others', and what the flood got."""

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
    """Answers at once on `/quick`, and after a while on `/slow`; notes when each delivery came."""

    def __init__(self, slow_s: float) -> None:
        self.slow_s = slow_s
        self.came_at: dict[str, int] = {}
        self.slow = 0
        self.port = 0

    async def _handle(self, request: web.Request) -> web.Response:
        now = time.time_ns()
        if request.path == "/slow":
            self.slow += 1
            await asyncio.sleep(self.slow_s)
        else:
            self.came_at.setdefault(request.headers["webhook-id"], now)
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
    """Publish the backlog, pipelined: to the work stream first, and what that refuses to the overflow."""
    free, refused = asyncio.Semaphore(IN_FLIGHT), set[asyncio.Task[None]]()

    async def one(destination: str, delivery: str, to: str) -> None:
        def done(result: object) -> None:
            free.release()
            if not isinstance(result, Stored):
                again = asyncio.create_task(one(destination, delivery, subjects.overflow(TENANT, destination)))
                refused.add(again)
                again.add_done_callback(refused.discard)

        await free.acquire()
        headers = {subjects.HEADER_MSG_ID: subjects.msg_id(TENANT, destination, delivery)}
        site.jetstream.publisher.send(Publication(to, document(destination, delivery=delivery), headers), done)

    for number in range(options.flood):
        destination = f"slow-{number % options.flooders}"
        # The first thousand of each are due; the rest would be refused one by one, so go where the rule sends them.
        is_due = number // options.flooders < site.settings.nats.work_per_destination
        subject = subjects.requested if is_due else subjects.overflow
        await one(destination, new_delivery_id(), subject(TENANT, destination))
    for _ in range(IN_FLIGHT):
        await free.acquire()


async def _pace(site: Site, options: Options) -> dict[str, int]:
    """Publish for the others at their rate; return when each delivery was published."""
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
    headers = {subjects.HEADER_MSG_ID: subjects.msg_id(tenant, "orders", delivery)}
    data = document("orders", delivery=delivery, tenant=tenant)
    await site.jetstream.publisher.publish(Publication(subjects.requested(tenant, "orders"), data, headers))


async def _tenant(site: Site, tenant: str, url: str) -> None:
    """A tenant with a destination and a secret."""
    write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=tenant, names=[tenant])
    configuration = site.jetstream.configuration
    ref = f"k8s://{NAMESPACE}/{tenant}/signing"
    await configuration.set_credential(tenant, "key", {"secret_ref": ref}, by="bench")
    await configuration.set_destination(tenant, "orders", {"url": url, "credential": "key"}, by="bench")


def _percentile(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(len(sorted_ms) * share))]


async def _run(options: Options, path: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="oneprotect-fairness-") as directory:
        async with (
            EmbeddedNats(Path(directory) / "nats") as server,
            Receiver(options.slow_s).serve() as receiver,
            Site(Path(directory), server, ack_wait_s="30", log_level="warning") as site,
        ):
            for number in range(options.flooders):
                await site.destination(f"slow-{number}", f"http://127.0.0.1:{receiver.port}/slow", timeout_s=10)
            for number in range(options.tenants):
                await _tenant(site, f"quick-{number}", f"http://127.0.0.1:{receiver.port}/quick")
            return await _measure(site, receiver, options, path)


async def _measure(site: Site, receiver: Receiver, options: Options, path: Path | None) -> int:
    began = time.monotonic()
    await _flood(site, options)
    print(f"flood of {options.flood} published in {time.monotonic() - began:.1f} s", file=sys.stderr)
    processes = [await Process.start(site.environ, "consumer") for _ in range(options.workers)]
    try:
        for number in range(options.tenants):  # warm up: connections, destinations
            await _deliver(site, f"quick-{number}", new_delivery_id())
        await until(lambda: len(receiver.came_at) == options.tenants, 60)
        await asyncio.sleep(options.settle_s)
        slow_before, began = receiver.slow, time.monotonic()
        published = await _pace(site, options)
        with contextlib.suppress(AssertionError):  # what is missing then is told below
            await until(lambda: published.keys() <= receiver.came_at.keys(), 10)
        took_s = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            await process.wait()
    lost = published.keys() - receiver.came_at.keys()
    times_ms = sorted((receiver.came_at[d] - at) / 1e6 for d, at in published.items() if d not in lost)
    slots = options.workers * min(
        options.flooders * site.settings.delivery.destination_max_in_flight,
        site.settings.delivery.max_in_flight * SHARE // (SHARE + 1),
    )
    got = receiver.slow - slow_before
    due = slots * took_s / options.slow_s
    print(
        f"{options.tenants} tenants at {options.rate_per_s:g}/s, beside one with {options.flood} waiting "
        f"for {options.flooders} destinations, {options.workers} workers"
    )
    print(f"  others: {len(times_ms)} delivered, {len(lost)} missing")
    print(
        "  publish to receipt, ms: "
        + ", ".join(f"p{s * 100:g} {_percentile(times_ms, s):.1f}" for s in (0.5, 0.95, 0.99, 1))
    )
    print(f"  flooders: {got} attempts; their limits allow {due:.0f}")
    p50_ms, p95_ms, p99_ms, longest_ms = (_percentile(times_ms, share) for share in (0.5, 0.95, 0.99, 1))
    measured = Measured(options, len(times_ms), len(lost), p50_ms, p95_ms, p99_ms, longest_ms, got, due)
    write_json(path, measured)
    complaints = [
        *([f"{len(lost)} of the others' deliveries are missing"] if lost else []),
        *([f"p99 is over {WANTED_P99_MS:g} ms"] if _percentile(times_ms, 0.99) > WANTED_P99_MS else []),
        *(
            ["the flooders got less than their limits allow"]
            if receiver.slow - slow_before < due * WANTED_SHARE
            else []
        ),
    ]
    for complaint in complaints:
        print(f"  not as wanted: {complaint}")
    return 1 if complaints else 0


def main() -> int:
    """Run it. 0 when nobody was delayed, nothing is missing, and the flooders got their share."""
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--flood", type=int, default=300_000)
    parser.add_argument("--flooders", type=int, default=1, help="destinations of the one tenant that floods")
    parser.add_argument("--slow-s", type=float, default=5.0)
    parser.add_argument("--tenants", type=int, default=49, help="the others, with a destination each")
    parser.add_argument("--rate-per-s", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--settle-s", type=float, default=0.0, help="let the flood spread first; workers share it every ten seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    return uvloop.run(_run(Options(**arguments), path))


if __name__ == "__main__":
    sys.exit(main())
