"""`python -m bench.processes`: the same work done by one consumer, and by two and four processes under one parent.

In turns, each started, given more than it can do, and stopped. With more processes than cores there is nothing to be
won: nats-server, the receiver and the producer share them, too. So CPU time per delivery is shown beside.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.harness.command import run
from bench.harness.errors import BenchError
from bench.harness.measure import Bench, Throughput
from bench.harness.site import Site, opened
from bench.harness.workload import PRODUCT

FIRST_COUNT = 5000


class Measured(Struct, frozen=True):
    """Medians over the rounds; `times`: of the throughput of the first of them, in the same round."""

    processes: int
    per_s: float
    times: float
    consumer_us: float
    nats_us: float


async def _measure(arguments: Namespace, directory: Path) -> list[Measured]:
    numbers: list[int] = arguments.processes
    found: dict[int, list[Throughput]] = {number: [] for number in numbers}
    async with opened(directory) as site:
        for _ in range(arguments.rounds):
            for number in numbers:
                rate = found[numbers[0]][0].per_s if found[numbers[0]] else 0.0
                found[number].append(await _round(site, number, max(FIRST_COUNT, int(rate * arguments.seconds))))
                print(f"{number} processes: {found[number][-1].per_s:.0f}/s", file=sys.stderr, flush=True)
    return [_measured(number, found[number], found[numbers[0]]) for number in numbers]


async def _round(site: Site, processes: int, count: int) -> Throughput:
    contender = msgspec.structs.replace(PRODUCT, name=f"{processes} processes")
    more = ("--processes", str(processes)) if processes > 1 else ()
    async with site.product(contender, {"ONEPROTECT_OPS_PORT": "0"}, *more):
        bench = Bench(site, contender)
        await bench.start()
        one = await bench.saturate(count)
        if code := await site.consumer(contender).stop():
            raise BenchError(f"the consumer ended with {code}{site.consumer(contender).log_tail()}")
    return one


def _measured(processes: int, rounds: Sequence[Throughput], first: Sequence[Throughput]) -> Measured:
    return Measured(
        processes,
        median(one.per_s for one in rounds),
        median(one.per_s / other.per_s for one, other in zip(rounds, first, strict=True)),
        median(one.consumer_us for one in rounds),
        median(one.nats_us for one in rounds),
    )


def main() -> int:
    """Run it and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="how many (default 1 2 4)")
        parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default %(default)s)")
        parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (%(default)s)")

    def told(found: list[Measured]) -> None:
        print(f"{'processes':>10}{'deliveries/s':>14}{'times':>8}{'CPU us':>8}{'nats us':>9}")
        for one in found:
            print(f"{one.processes:10}{one.per_s:14.0f}{one.times:8.2f}{one.consumer_us:8.0f}{one.nats_us:9.0f}")

    return run("bench.processes", __doc__, options, _measure, told)


if __name__ == "__main__":
    sys.exit(main())
