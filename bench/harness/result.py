"""The result of a run, as JSON and as a table."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

from bench.harness.measure import Bench, Latency, Throughput
from bench.harness.receiver import Report
from bench.harness.workload import ADDRESSES, IN_FLIGHT, PACE_PER_S, TENANTS, Options

_COLUMNS: Final = ("deliveries/s", "consumer", "nats", "receiver", "p50", "p95", "p99")
_WIDTHS: Final = (14, 10, 10, 10, 8, 8, 8)


class Measured(Struct, frozen=True):
    """The result of a contender; `median` is taken field by field, and its `count` is the sum."""

    median: Throughput
    rounds: tuple[Throughput, ...]
    latency: Latency


class Result(Struct, frozen=True):
    """The contenders, when everything was delivered. Ratios are deliveries a second, product / bare loop.

    The ratios of CPU time, bare loop / product, are those of deliveries a second when nothing else runs.
    """

    options: Options
    product: Measured
    bare: Measured
    aiohttp: Measured
    ratio: float
    ratio_aiohttp: float
    cpu_ratio: float
    cpu_ratio_aiohttp: float
    duplicates: int


def measured(bench: Bench, report: Report) -> Measured:
    """Return the result of a contender."""
    return Measured(medians(bench.rounds), tuple(bench.rounds), bench.latency(report.receipts))


def compared(options: Options, product: Measured, bare: Measured, aiohttp: Measured, *, duplicates: int) -> Result:
    """Compare the product with the bare loops round by round, because the machine changes between rounds."""
    return Result(
        options=options,
        product=product,
        bare=bare,
        aiohttp=aiohttp,
        ratio=ratio(product.rounds, bare.rounds),
        ratio_aiohttp=ratio(product.rounds, aiohttp.rounds),
        cpu_ratio=bare.median.consumer_us / product.median.consumer_us,
        cpu_ratio_aiohttp=aiohttp.median.consumer_us / product.median.consumer_us,
        duplicates=duplicates,
    )


def ratio(product: Sequence[Throughput], bare: Sequence[Throughput]) -> float:
    """Return the median over the rounds of the ratio of deliveries a second."""
    return median(one.per_s / other.per_s for one, other in zip(product, bare, strict=True))


def medians(rounds: Sequence[Throughput]) -> Throughput:
    """Return the medians field by field; the count is the sum."""

    def of(field: Callable[[Throughput], float]) -> float:
        return median(map(field, rounds))

    return Throughput(
        per_s=of(lambda one: one.per_s),
        consumer_us=of(lambda one: one.consumer_us),
        nats_us=of(lambda one: one.nats_us),
        receiver_us=of(lambda one: one.receiver_us),
        count=sum(one.count for one in rounds),
    )


def table(result: Result) -> Iterator[str]:
    """Yield lines for a terminal; the last one holds only the ratio."""
    scheme = "HTTPS" if result.options.https else "HTTP"
    yield f"{scheme}, {len(TENANTS)} tenants, {len(ADDRESSES)} destinations, {IN_FLIGHT} in flight, one process each;"
    if result.options.traced:
        yield "the product exports 5 % of its traces, and its metrics;"
    yield f"medians of {result.options.rounds} rounds; latency at {PACE_PER_S} deliveries/s"
    yield ""
    yield f"{'':12}{'':>14}{'CPU us per delivery':>30}{'ms to receipt':>24}"
    yield f"{'':12}" + "".join(f"{name:>{width}}" for name, width in zip(_COLUMNS, _WIDTHS, strict=True))
    for name, measured in (("product", result.product), ("bare", result.bare), ("bare aiohttp", result.aiohttp)):
        latency = measured.latency
        yield f"{name:12}" + _cells(measured.median) + _row((latency.p50_ms, latency.p95_ms, latency.p99_ms))
        for number, one in enumerate(measured.rounds, 1):
            yield f"{f'  round {number}':12}" + _cells(one)
    yield ""
    yield f"all delivered, verified and on record; {result.duplicates} came more than once"
    yield f"CPU per delivery, bare / product: {result.cpu_ratio:.2f}; aiohttp: {result.cpu_ratio_aiohttp:.2f}"
    yield f"ratio-aiohttp: {result.ratio_aiohttp:.2f}"
    yield f"ratio: {result.ratio:.2f}"


def _cells(one: Throughput) -> str:
    return f"{one.per_s:14.0f}{one.consumer_us:10.0f}{one.nats_us:10.0f}{one.receiver_us:10.0f}"


def _row(numbers: Sequence[float]) -> str:
    return "".join(f"{number:8.1f}" for number in numbers)
