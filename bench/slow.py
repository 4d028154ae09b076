"""`python -m bench.slow`: thousands of deliveries in flight to receivers that take seconds, and the memory of each."""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.checks import problems
from bench.command import run
from bench.errors import BenchError
from bench.measure import Bench
from bench.plan import PRODUCT
from bench.receiver import Manner
from bench.site import Site, opened

WARM_UP: Final = 64
_POLL_S: Final = 0.1
_SLOTS: Final = {"ONEPROTECT_MAX_IN_FLIGHT": "16384", "ONEPROTECT_DESTINATION_MAX_IN_FLIGHT": "1024"}


class Measured(Struct, frozen=True):
    """`at_once`: how many the receiver held at the same time, all of which it verified."""

    count: int
    at_once: int
    base_mb: float
    most_mb: float
    kb_each: float


async def _measure(arguments: Namespace, directory: Path) -> Measured:
    manner = Manner(answer_after_s=arguments.answer_after_s)
    async with (
        opened(directory, https=arguments.https, manner=manner, variables=_SLOTS) as site,
        site.product(PRODUCT, {}),
    ):
        bench = Bench(site, PRODUCT)
        await bench.start()
        await bench.saturate(WARM_UP)
        seen_mb = [site.consumer(PRODUCT).memory_mb()]
        watching = asyncio.create_task(_watch(site, seen_mb))
        try:
            await bench.saturate(arguments.count)
        finally:
            watching.cancel()
        report = await site.report()
        if wrong := await problems(site, bench, [], report):
            raise BenchError("; ".join(wrong))
    at_once = report.most_waiting
    base_mb, most_mb = seen_mb[0], max(seen_mb)
    return Measured(arguments.count, at_once, base_mb, most_mb, (most_mb - base_mb) * 1000 / at_once)


async def _watch(site: Site, seen_mb: list[float]) -> None:
    while True:
        seen_mb.append(site.consumer(PRODUCT).memory_mb())
        await asyncio.sleep(_POLL_S)


def main() -> int:
    """Run it and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=10_000, help="deliveries (default %(default)s)")
        parser.add_argument("--answer-after-s", type=float, default=5.0, help="how slow the receiver is (%(default)s)")
        parser.add_argument("--https", action="store_true", help="over TLS")

    def told(found: Measured) -> None:
        print(f"{found.count} deliveries, at most {found.at_once} of them in flight at the same time; none is missing")
        print(f"memory {found.base_mb:.0f} -> {found.most_mb:.0f} MB: {found.kb_each:.1f} KB each")

    return run("bench.slow", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
