"""`python -m bench.telemetry`: cost of telemetry without export, with 5 % of traces and metrics, and with all traces.

One consumer at a time, as it is deployed, with the same work, in turns: every round each of the three is started,
given more than it can do, and stopped. Counting and `/metrics` are always on; what is compared is the export.
"""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from msgspec import Struct

from bench.harness.child import Child, child
from bench.harness.command import run
from bench.harness.comparison import say
from bench.harness.errors import BenchError
from bench.harness.measure import Bench, Throughput
from bench.harness.site import START_TIMEOUT_S, Site, opened
from bench.harness.workload import PRODUCT, Contender

SPANS_EACH: Final = 5
_EXPORT: Final = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}


class Way(Struct, frozen=True):
    """A configuration of telemetry: the share of traced deliveries (None: no export), and the log level."""

    name: str
    ratio: float | None
    logged: str = "failed"

    def environ(self, collector: str) -> Mapping[str, str]:
        """Return the environment variables of a consumer with this configuration."""
        logged = {"ONEPROTECT_LOG_ATTEMPTS": self.logged, "ONEPROTECT_OPS_PORT": "0"}
        if self.ratio is None:
            return logged
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER_ARG": str(self.ratio)}
        return {**logged, **_EXPORT, **where}


WAYS: Final = (
    Way("nothing exported", None),
    Way("5 % of traces, metrics", 0.05),
    Way("all traces, metrics", 1.0),
    Way("a log record for each", None, "all"),
)


TRACED: Final = WAYS[1]
"""The configuration of a usual deployment."""


class Told(Struct, frozen=True):
    """The result of a configuration; `spans` is the share of the expected spans that arrived."""

    name: str
    per_s: float
    consumer_us: float
    share: float
    """Throughput relative to the first configuration within each round; the median."""
    cpu_share: float
    """CPU time per delivery, first configuration / this one; the median over the rounds."""
    spans: float | None


async def _measure(arguments: Namespace, directory: Path) -> list[Told]:
    ways = WAYS[: arguments.ways]
    found: dict[str, list[Throughput]] = {way.name: [] for way in ways}
    spans: dict[str, list[float]] = {way.name: [] for way in ways}
    async with opened(directory) as site, collector(directory) as collecting:
        url = f"http://127.0.0.1:{await collecting.hear('port', START_TIMEOUT_S)}"
        rate = 0.0
        for number in range(1, arguments.rounds + 1):
            for way in ways:
                one = await restarted(site, way, url, rate, arguments.seconds)
                rate = rate or one.per_s
                found[way.name].append(one)
                collecting.tell(b"report")
                came = int((await collecting.hear("spans", START_TIMEOUT_S)).split()[0])
                if way.ratio:
                    spans[way.name].append(came / (one.count / 0.9 * SPANS_EACH * way.ratio))
                say(f"round {number}: {way.name}: {one.per_s:.0f}/s")
    first = found[ways[0].name]
    return [_told(way.name, found[way.name], first, spans[way.name]) for way in ways]


async def restarted(site: Site, way: Way, url: str, rate: float, seconds: float) -> Throughput:
    """Start a consumer, give it more than it can do for about `seconds`, and stop it."""
    contender: Contender = msgspec.structs.replace(PRODUCT, name=way.name)
    async with site.product(contender, way.environ(url)):
        bench = Bench(site, contender)
        await bench.start()
        one = await bench.saturate(int(rate * seconds) or 3000)
        if code := await site.consumer(contender).stop():
            raise BenchError(f"the consumer ended with {code}{site.consumer(contender).log_tail()}")
    return one


def _told(name: str, rounds: list[Throughput], first: list[Throughput], spans: list[float]) -> Told:
    return Told(
        name,
        median(one.per_s for one in rounds),
        median(one.consumer_us for one in rounds),
        median(one.per_s / other.per_s for one, other in zip(rounds, first, strict=True)),
        median(other.consumer_us / one.consumer_us for one, other in zip(rounds, first, strict=True)),
        median(spans) if spans else None,
    )


@contextlib.asynccontextmanager
async def collector(directory: Path) -> AsyncGenerator[Child]:
    """Run a collector."""
    async with child("collector", "bench.harness.collector", log=directory / "collector.log", speaks=True) as running:
        yield running


@contextlib.asynccontextmanager
async def exporting(directory: Path, way: Way) -> AsyncGenerator[Mapping[str, str]]:
    """Run a collector, and yield the environment variables of a consumer that exports to it."""
    async with collector(directory) as collecting:
        yield way.environ(f"http://127.0.0.1:{await collecting.hear('port', START_TIMEOUT_S)}")


def _tell(found: list[Told]) -> None:
    print(f"{'':26}{'deliveries/s':>14}{'CPU us each':>14}{'throughput':>12}{'by CPU':>8}{'spans that came':>18}")
    for way in found:
        came = "" if way.spans is None else f"{way.spans:.1%}"
        print(f"{way.name:26}{way.per_s:14.0f}{way.consumer_us:14.0f}{way.share:12.2f}{way.cpu_share:8.2f}{came:>18}")


def main() -> int:
    """Run it and return the exit code."""

    def options(parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default %(default)s)")
        parser.add_argument("--seconds", type=float, default=2.5, help="length of a round (%(default)s)")
        ways = range(1, len(WAYS) + 1)
        parser.add_argument("--ways", type=int, default=len(WAYS), choices=ways, help="only the first so many ways")

    return run("bench.telemetry", __doc__, options, _measure, _tell)


if __name__ == "__main__":
    sys.exit(main())
