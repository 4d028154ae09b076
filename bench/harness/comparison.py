"""Comparison of the product with the bare loop in one run: medians of the rounds, and ratios."""

import sys
from collections.abc import Iterator, Sequence
from statistics import median

from msgspec import Struct

from bench.harness.measure import Bench, Throughput
from bench.harness.result import medians, ratio


class Beside(Struct, frozen=True):
    """Medians of both contenders, and medians of the ratios within each round; 1 means equal to the bare loop.

    `ratio`: deliveries a second, product / bare; `cpu_ratio`: CPU time of the consumer per delivery, bare / product.
    """

    product: Throughput
    bare: Throughput
    ratio: float
    cpu_ratio: float


def compared(product: Sequence[Throughput], bare: Sequence[Throughput]) -> Beside:
    """Compare both round by round."""
    cpu_ratio = median(theirs.consumer_us / ours.consumer_us for ours, theirs in zip(product, bare, strict=True))
    return Beside(medians(product), medians(bare), ratio(product, bare), cpu_ratio)


async def rounds_in_turn(benches: Sequence[Bench], rounds: int, count: int) -> None:
    """Give each contender `count` deliveries in turn, and print the rate."""
    for number in range(1, rounds + 1):
        for bench in benches:
            bench.rounds.append(one := await bench.saturate(count))
            say(f"round {number}: {bench.contender.name}, {one.per_s:.0f}/s")


def say(what: str) -> None:
    """Print progress to stderr."""
    print(what, file=sys.stderr, flush=True)


def table(found: Beside) -> Iterator[str]:
    """Yield lines for a terminal; the last one holds only the ratio."""
    yield f"{'':10}{'':>14}{'CPU us per delivery':>30}"
    yield f"{'':10}{'deliveries/s':>14}{'consumer':>10}{'nats':>10}{'receiver':>10}"
    for name, one in (("product", found.product), ("bare", found.bare)):
        yield f"{name:10}{one.per_s:14.0f}{one.consumer_us:10.0f}{one.nats_us:10.0f}{one.receiver_us:10.0f}"
    yield f"CPU per delivery, bare / product: {found.cpu_ratio:.2f}"
    yield f"ratio: {found.ratio:.2f}"
