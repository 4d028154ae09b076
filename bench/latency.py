"""`python -m bench.latency`: from publish to receipt, at an even pace of 50, 200 and 1,000 deliveries a second."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from msgspec import Struct

from bench.checks import problems
from bench.command import run
from bench.errors import BenchError
from bench.measure import Bench, Latency
from bench.plan import PRODUCT
from bench.site import opened

_WARM_UP_PER_S = 200.0


class Measured(Struct, frozen=True):
    """What a pace came to."""

    asked_per_s: float
    latency: Latency


async def _measure(arguments: Namespace, directory: Path) -> list[Measured]:
    async with opened(directory) as site, site.product(PRODUCT, {}):
        bench = Bench(site, PRODUCT)
        await bench.start()
        await bench.pace(_WARM_UP_PER_S, 1.0)  # connections, destinations and secrets
        found: list[Measured] = []
        for per_s in arguments.per_s:
            await bench.pace(per_s, arguments.seconds)
            found.append(Measured(per_s, bench.latency((await site.report()).receipts)))
        if wrong := await problems(site, bench, [], await site.report()):
            raise BenchError("; ".join(wrong))
    return found


def main() -> int:
    """Run it and return the exit code."""

    def told(found: list[Measured]) -> None:
        print(f"{'deliveries/s':>14}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
        for one in found:
            latency = one.latency
            print(f"{one.asked_per_s:14.0f}{latency.p50_ms:10.1f}{latency.p95_ms:10.1f}{latency.p99_ms:10.1f}")

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--per-s", type=float, nargs="+", default=[50.0, 200.0, 1000.0], help="the paces")
        parser.add_argument("--seconds", type=float, default=5.0, help="how long each (default %(default)s)")

    return run("bench.latency", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
