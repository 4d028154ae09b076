"""`python -m bench.slow`: thousands of deliveries in flight to receivers that take seconds, and the memory of each.

The bare loop beside it has the same work, with a receiver and a server of its own.
"""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.harness.checks import problems
from bench.harness.command import run
from bench.harness.comparison import say
from bench.harness.errors import BenchError
from bench.harness.measure import Bench
from bench.harness.receiver import Manner
from bench.harness.site import Site, opened
from bench.harness.workload import BARE, PRODUCT, Contender

WARM_UP: Final = 64
_POLL_S: Final = 0.1
_SLOTS: Final = 16_384
_VARIABLES: Final = {"ONEPROTECT_DESTINATION_MAX_IN_FLIGHT": "1024", "ONEPROTECT_REQUEST_TIMEOUT_S": "30"}


class Held(Struct, frozen=True):
    """The cost of a contender; `at_once` is the number of verified requests that the receiver held at a time."""

    at_once: int
    base_mb: float
    most_mb: float
    kb_each: float
    consumer_us: float
    """CPU time per delivery."""


class Measured(Struct, frozen=True):
    """`ratio`: memory of a delivery in flight, bare / product; 1 means as little as the bare loop takes."""

    count: int
    product: Held
    bare: Held
    ratio: float


async def _measure(arguments: Namespace, directory: Path) -> Measured:
    product, bare = [await _held(arguments, directory / one.name, one) for one in (PRODUCT, BARE)]
    return Measured(arguments.count, product, bare, bare.kb_each / product.kb_each)


async def _held(arguments: Namespace, directory: Path, contender: Contender) -> Held:
    await asyncio.to_thread(directory.mkdir)
    manner = Manner(answer_after_s=arguments.answer_after_s)
    async with (
        opened(directory, https=arguments.https, manner=manner, in_flight=_SLOTS, variables=_VARIABLES) as site,
        site.contender(contender),
    ):
        bench = Bench(site, contender)
        await bench.start()
        await bench.saturate(WARM_UP)
        seen_mb = [site.consumer(contender).memory_mb()]
        watching = asyncio.create_task(_watch(site, contender, seen_mb))
        try:
            throughput = await bench.saturate(arguments.count)
        finally:
            watching.cancel()
        report = await site.report()
        if wrong := await problems(site, [bench], report):
            raise BenchError("; ".join(wrong))
    base_mb, most_mb, at_once = seen_mb[0], max(seen_mb), report.most_waiting
    say(f"{contender.name}: {at_once} in flight, {base_mb:.0f} -> {most_mb:.0f} MB")
    return Held(at_once, base_mb, most_mb, (most_mb - base_mb) * 1000 / at_once, throughput.consumer_us)


async def _watch(site: Site, contender: Contender, seen_mb: list[float]) -> None:
    while True:
        seen_mb.append(site.consumer(contender).memory_mb())
        await asyncio.sleep(_POLL_S)


def main() -> int:
    """Run it and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=10_000, help="deliveries (default %(default)s)")
        parser.add_argument(
            "--answer-after-s", type=float, default=5.0, help="how slow the receiver is: up to 20 (%(default)s)"
        )
        parser.add_argument("--https", action="store_true", help="over TLS")

    def told(found: Measured) -> None:
        for name, one in (("product", found.product), ("bare", found.bare)):
            print(
                f"{name:8} {found.count} deliveries, at most {one.at_once} of them in flight; none is missing; "
                f"memory {one.base_mb:.0f} -> {one.most_mb:.0f} MB: {one.kb_each:.1f} KB each; "
                f"{one.consumer_us:.0f} us of CPU each"
            )
        print(f"ratio: {found.ratio:.2f}")

    return run("bench.slow", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
