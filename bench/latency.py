"""`python -m bench.latency`: from publish to receipt, at an even pace of 50, 200 and 1,000 deliveries a second.

The bare loop beside it gets the same paces, in turns.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from msgspec import Struct

from bench.harness.checks import problems
from bench.harness.command import run
from bench.harness.errors import BenchError
from bench.harness.measure import Bench, Latency
from bench.harness.site import Site, opened
from bench.harness.workload import BARE, PRODUCT

_WARM_UP_PER_S = 200.0


class Measured(Struct, frozen=True):
    """The latency at a pace."""

    asked_per_s: float
    product: Latency
    bare: Latency


async def _measure(arguments: Namespace, directory: Path) -> list[Measured]:
    async with opened(directory) as site, site.product(PRODUCT, {}), site.bare(BARE):
        benches = [Bench(site, one) for one in (PRODUCT, BARE)]
        for bench in benches:
            await bench.start()
            await bench.pace(_WARM_UP_PER_S, 1.0)  # connections, destinations and secrets
        found = [
            Measured(per_s, *[await _paced(site, bench, per_s, arguments.seconds) for bench in benches])
            for per_s in arguments.per_s
        ]
        if wrong := await problems(site, benches, await site.report()):
            raise BenchError("; ".join(wrong))
    return found


async def _paced(site: Site, bench: Bench, per_s: float, seconds: float) -> Latency:
    await bench.pace(per_s, seconds)
    return bench.latency((await site.report()).receipts)


def main() -> int:
    """Run it and return the exit code."""

    def told(found: list[Measured]) -> None:
        print(f"{'deliveries/s':>14}{'':10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
        for one in found:
            for name, latency in (("product", one.product), ("bare", one.bare)):
                figures = f"{latency.p50_ms:10.1f}{latency.p95_ms:10.1f}{latency.p99_ms:10.1f}"
                print(f"{one.asked_per_s:14.0f}  {name:8}{figures}")
        print(
            "ratio of p95, bare / product: " + ", ".join(f"{one.bare.p95_ms / one.product.p95_ms:.2f}" for one in found)
        )

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--per-s", type=float, nargs="+", default=[50.0, 200.0, 1000.0], help="the paces")
        parser.add_argument("--seconds", type=float, default=5.0, help="how long each (default %(default)s)")

    return run("bench.latency", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
