"""The figures and pictures of `docs/performance.md`, from the results of one run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from bench import api, fairness, latency, processes, schedules, secrets, slow, telemetry
from bench.beside import Beside
from bench.errors import BenchError
from bench.peers import plan as peers_plan
from bench.peers import result as peers_result
from bench.peers.proof import COUNT
from bench.peers.result import TITLES
from bench.result import Result
from bench.svg import Row, bars

BEGIN: Final = "<!-- figures: begin; made by `python -m bench.all --write-docs` -->"
END: Final = "<!-- figures: end -->"

T = TypeVar("T")
Lines = Iterable[str]


class Ran(Struct, frozen=True):
    """A measurement that was made: how, when, and how busy the machine was with other things just before."""

    command: str
    at: datetime
    load: float
    took_s: float


class Machine(Struct, frozen=True):
    """Where it ran."""

    cores: int
    python: str
    versions: dict[str, str]
    ran: dict[str, Ran]


class Page:
    """What is written: sections with the command of each, and pictures beside."""

    def __init__(self, results: Path, docs: Path) -> None:
        self._results = results
        self._images = docs / "images"
        self.machine = self._read("machine", Machine)

    def _read(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode((self._results / f"{name}.json").read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError) as error:
            why = type(error).__name__
        raise BenchError(f"bench/results/{name}.json: {why}; `python -m bench.all` writes it")

    def section(self, title: str, name: str, kind: type[T], lines: Callable[[T], Lines]) -> Iterator[str]:
        """A heading, the command, and the lines; none if it was not measured."""
        if name in self.machine.ran:
            yield from (f"### {title}: `{self.machine.ran[name].command}`", "", *lines(self._read(name, kind)), "")

    def picture(self, name: str, title: str, rows: Sequence[Row]) -> str:
        """Draw it; returns the line that shows it."""
        (self._images / f"bench-{name}.svg").write_text(bars(title, rows))
        return f"![{title}](images/bench-{name}.svg)"


def write_docs(results: Path, docs: Path) -> None:
    """Replace what is between the marks of `performance.md`. Raises `BenchError` when results or marks are missing."""
    file, page = docs / "performance.md", Page(results, docs)
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise BenchError("docs/performance.md has no marks")
    file.write_text("\n".join([before + BEGIN, "", *_figures(page), END]) + after)


def _figures(page: Page) -> Iterator[str]:
    machine = page.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    loads = [ran.load for ran in machine.ran.values()]
    yield f"{machine.cores} cores, Python {machine.python}, {versions}; loopback. Load before each: {_span(loads)}."
    yield ""
    for scheme in ("http", "https"):
        yield from page.section(f"Throughput, {scheme.upper()}", scheme, Result, partial(_speed, page, scheme))
    yield from page.section("Peers", "peers", peers_result.Result, partial(_peers, page))
    yield from page.section("Latency", "latency", list[latency.Measured], partial(_latency, page))
    yield from page.section("Many destinations that close their connections", "destinations", Beside, _few)
    for name, title in (("slow", "In flight to a slow receiver"), ("slow-https", "The same over HTTPS")):
        yield from page.section(title, name, slow.Measured, _slow)
    yield from page.section("Beside a flood", "fairness", fairness.Measured, _flood)
    yield from page.section("Retries that wait", "schedules", schedules.Measured, _waiting)
    yield from page.section("Secrets, cold and warm", "secrets", list[secrets.Row], _secrets)
    yield from page.section("Publishing through the API", "api", dict[str, api.Measured], _api)
    yield from page.section("Telemetry", "telemetry", list[telemetry.Told], _telemetry)
    yield from page.section("Processes", "processes", list[processes.Measured], partial(_processes, page))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def _speed(page: Page, scheme: str, result: Result) -> Lines:
    them = {"product": result.product, "bare loop": result.bare, "bare loop, aiohttp": result.aiohttp}
    rows: list[Row] = [(name, one.median.per_s, f"{one.median.per_s:,.0f}/s") for name, one in them.items()]
    yield page.picture(scheme, f"Deliveries a second of one process, {scheme.upper()}", rows)
    yield ""
    yield from _table(
        ("", "deliveries/s", "CPU µs each", "p50 / p95 / p99 at 200/s, ms"),
        (
            (
                name,
                f"{one.median.per_s:,.0f}",
                f"{one.median.consumer_us:.0f}",
                f"{one.latency.p50_ms:.1f} / {one.latency.p95_ms:.1f} / {one.latency.p99_ms:.1f}",
            )
            for name, one in them.items()
        ),
    )
    yield ""
    yield f"`ratio: {result.ratio:.2f}`, `ratio-aiohttp: {result.ratio_aiohttp:.2f}`; by CPU time of the consumer"
    yield f"{result.cpu_ratio:.2f} and {result.cpu_ratio_aiohttp:.2f}."


def _peers(page: Page, result: peers_result.Result) -> Lines:
    peers = [peer for peer in peers_plan.PEERS if peer.name in result.peers]
    them = {"product": result.product} | {peer.title: result.peers[peer.name] for peer in peers}
    rows: list[Row] = [(name, one.system_us, f"{one.system_us:,.0f} µs") for name, one in them.items()]
    yield page.picture("peers", "CPU time per delivery, workers and broker: less is better", rows)
    yield ""
    yield from _table(
        ("", "deliveries/s", "workers µs", "broker µs", "in all", "of the product's", "kept after kill -9"),
        (
            (
                name,
                f"{one.per_s:,.0f}",
                f"{one.workers_us:,.0f}",
                f"{one.broker_us:.0f}",
                f"{one.system_us:,.0f}",
                f"{one.times:.2f}",
                f"{one.kept:,} of {COUNT:,}",
            )
            for name, one in them.items()
        ),
    )
    yield ""
    if result.ratio and result.best:
        yield f"`peers: {result.ratio:.2f}`: {TITLES[result.best]}, the best of those that keep what they accept."
    yield f"`peers-any: {result.ratio_any:.2f}`: {TITLES[result.best_any]}, the best of all."
    yield "Everything was delivered, verified at the receiver and on record."
    yield ""
    yield from (f"- {peer.title}: {peer.how}; {peer.processes}." for peer in peers)
    yield from (f"- {name} is left out: {reason}." for name, reason in result.left_out.items())
    yield ""
    yield f"What none of the peers does by itself: {'; '.join(peers_plan.LACKING)}."
    yield ""
    yield from (f"- Nor does {peer.title}: {'; '.join(peer.lacks)}." for peer in peers if peer.lacks)


def _latency(page: Page, found: list[latency.Measured]) -> Lines:
    figures = [
        (name, one.asked_per_s, waits)
        for one in found
        for name, waits in (("product", one.product), ("bare loop", one.bare))
    ]
    rows: list[Row] = [(f"{name}, {per_s:,.0f}/s", w.p95_ms, f"{w.p95_ms:.1f} ms") for name, per_s, w in figures]
    yield page.picture("latency", "From publish to receipt, p95", rows)
    yield ""
    yield from _table(
        ("deliveries/s", "", "p50 ms", "p95 ms", "p99 ms"),
        (
            (f"{per_s:,.0f}", name, f"{w.p50_ms:.1f}", f"{w.p95_ms:.1f}", f"{w.p99_ms:.1f}")
            for name, per_s, w in figures
        ),
    )


def _few(found: Beside) -> Lines:
    yield from _table(
        ("", "deliveries/s", "CPU µs each", "nats-server µs", "receiver µs"),
        (
            (name, f"{one.per_s:,.0f}", *(f"{us:,.0f}" for us in (one.consumer_us, one.nats_us, one.receiver_us)))
            for name, one in (("product", found.product), ("bare loop", found.bare))
        ),
    )
    yield ""
    yield "Each delivery has a connection and a handshake of its own."
    yield f"`ratio: {found.ratio:.2f}`; by CPU time of the consumer {found.cpu_ratio:.2f}."


def _slow(found: slow.Measured) -> Lines:
    yield from _table(
        ("", "in flight at a time", "memory, MB", "KB each", "CPU µs each"),
        (
            (
                name,
                f"{one.at_once:,}",
                f"{one.base_mb:.0f} -> {one.most_mb:.0f}",
                f"{one.kb_each:.1f}",
                f"{one.consumer_us:.0f}",
            )
            for name, one in (("product", found.product), ("bare loop", found.bare))
        ),
    )
    yield ""
    yield f"{found.count:,} deliveries to each, all delivered. `ratio: {found.ratio:.2f}`: memory, bare loop / product."


def _flood(one: fairness.Measured) -> Lines:
    asked = one.options
    yield f"{asked.tenants} tenants with {asked.rate_per_s:g} deliveries/s in all, beside {asked.flood:,} of one tenant"
    yield f"on a receiver that takes {asked.slow_s:g} s. From publish to receipt: p50 {one.p50_ms:.1f},"
    yield f"p95 {one.p95_ms:.1f}, p99 {one.p99_ms:.1f}, longest {one.longest_ms:.1f} ms; {one.missing} missing."
    yield f"The flood got {one.attempts} attempts; its limits allow {one.attempts_due:.0f}."


def _waiting(one: schedules.Measured) -> Lines:
    base_mb, with_them_mb, restarted_mb = one.memory_mb
    yield f"{one.count:,} scheduled retries, published at {one.per_s:,.0f}/s: {one.disk_mb:.0f} MB on disk,"
    yield f"server memory {base_mb:.0f} -> {with_them_mb:.0f} MB ({restarted_mb:.0f} MB after kill -9 and a restart of"
    yield f"{one.restart_s:.1f} s), {one.at_rest_percent:.1f} % of a core at rest."
    yield f"1,000 due at one instant fired {one.late_s[0]:.2f} to {one.late_s[2]:.2f} s late; none is missing."


def _secrets(rows: list[secrets.Row]) -> Lines:
    return _table(("", "measured", "wanted"), ((row.what.strip(), row.found, row.wanted) for row in rows))


def _api(found: dict[str, api.Measured]) -> Lines:
    return _table(
        ("", "POST/s", "CPU µs", "p50 ms", "p99 ms"),
        (
            (name, f"{one.per_s:,.0f}", f"{one.cpu_us:.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}")
            for name, one in found.items()
        ),
    )


def _telemetry(found: list[telemetry.Told]) -> Lines:
    return _table(
        ("", "deliveries/s", "CPU µs", "throughput", "by CPU"),
        (
            (one.name, f"{one.per_s:,.0f}", f"{one.consumer_us:.0f}", f"{one.share:.2f}", f"{one.cpu_share:.2f}")
            for one in found
        ),
    )


def _processes(page: Page, found: list[processes.Measured]) -> Lines:
    rows: list[Row] = [(f"product, {one.processes}", one.per_s, f"{one.per_s:,.0f}/s") for one in found]
    yield page.picture("processes", "Deliveries a second, by processes", rows)
    yield ""
    yield from _table(
        ("processes", "deliveries/s", "times", "CPU µs each"),
        ((one.processes, f"{one.per_s:,.0f}", f"{one.times:.2f}", f"{one.consumer_us:.0f}") for one in found),
    )


def _span(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.1f} to {max(numbers):.1f}" if numbers else "not measured"
