"""`python -m bench.telemetry`: what telemetry costs. Nothing exported, 5 % of traces and metrics, all traces.

One consumer at a time, as it is deployed, with the same work, in turns: every round each of the three is started,
given more than it can do, and stopped. Counting and `/metrics` are always on; what is compared is the export.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import uvloop
from msgspec import Struct

from bench.child import Child, child
from bench.errors import BenchError
from bench.measure import Bench, Throughput
from bench.plan import PRODUCT, Contender
from bench.site import START_TIMEOUT_S, Site, opened

SPANS_EACH: Final = 5
_EXPORT: Final = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}


class Way(Struct, frozen=True):
    """How much is told: of how many deliveries a trace (None: nothing is exported), and what is logged."""

    name: str
    ratio: float | None
    logged: str = "failed"

    def environ(self, collector: str) -> Mapping[str, str]:
        """The variables of a consumer that does so."""
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


class Told(Struct, frozen=True):
    """What one way came to. `spans`: the share of those that should have come that did."""

    name: str
    per_s: float
    consumer_us: float
    share: float
    """Of the throughput of the first way, within each round; the median."""
    cpu_share: float
    """CPU time of the consumer for each delivery, the first way's / this one's; the median over the rounds."""
    spans: float | None


async def _measure(ways: Sequence[Way], rounds: int, seconds: float) -> list[Told]:
    found: dict[str, list[Throughput]] = {way.name: [] for way in ways}
    spans: dict[str, list[float]] = {way.name: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with opened(Path(directory)) as site, collector(Path(directory)) as collecting:
            url = f"http://127.0.0.1:{await collecting.hear('port', START_TIMEOUT_S)}"
            rate = 0.0
            for number in range(1, rounds + 1):
                for way in ways:
                    one = await restarted(site, way, url, rate, seconds)
                    rate = rate or one.per_s
                    found[way.name].append(one)
                    collecting.tell(b"report")
                    came = int((await collecting.hear("spans", START_TIMEOUT_S)).split()[0])
                    if way.ratio:
                        spans[way.name].append(came / (one.count / 0.9 * SPANS_EACH * way.ratio))
                    print(f"round {number}: {way.name}: {one.per_s:.0f}/s", file=sys.stderr, flush=True)
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
    """A collector runs meanwhile."""
    async with child("collector", "bench.collector", log=directory / "collector.log", speaks=True) as running:
        yield running


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a round (%(default)s)")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many ways (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    if not (1 <= arguments.ways <= len(WAYS) and 1 <= arguments.rounds <= 20 and 0.5 <= arguments.seconds <= 10):
        parser.error("from 1 to 20 rounds of 0.5 to 10 seconds each")
    try:
        told = uvloop.run(_measure(WAYS[: arguments.ways], arguments.rounds, arguments.seconds))
    except BenchError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    print(f"{'':26}{'deliveries/s':>14}{'CPU us each':>14}{'throughput':>12}{'by CPU':>8}{'spans that came':>18}")
    for way in told:
        came = "" if way.spans is None else f"{way.spans:.1%}"
        print(f"{way.name:26}{way.per_s:14.0f}{way.consumer_us:14.0f}{way.share:12.2f}{way.cpu_share:8.2f}{came:>18}")
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
