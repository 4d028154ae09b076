"""The figures and pictures of `docs/explanation/performance.md`, from the results of one run."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from bench import api, latency, processes, schedules, secrets, sections, slow, telemetry
from bench.beside import Beside
from bench.errors import BenchError
from bench.page import Lines, Page, table
from bench.peers import result as peers_result
from bench.result import Result
from bench.summary import goals

BEGIN: Final = "<!-- figures: begin; made by `python -m bench.all --write-docs` -->"
END: Final = "<!-- figures: end -->"


def write_docs(results: Path, docs: Path) -> None:
    """Replace the text between the marks of the page. Raises `BenchError` when results or marks are missing."""
    file, page = docs / "explanation" / "performance.md", Page(results, docs)
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise BenchError("docs/explanation/performance.md has no marks")
    file.write_text("\n".join([before + BEGIN, "", *_figures(page), END]) + after)


def _figures(page: Page) -> Iterator[str]:
    machine = page.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    loads, times = zip(*((ran.load, ran.at) for ran in machine.ran.values()), strict=True) if machine.ran else ((), ())
    yield f"Measured {_when(times)} on {machine.cores} cores, Python {machine.python}, {versions}; loopback."
    yield f"Load before each: {_span(loads)}."
    yield ""
    yield from _summary(page)
    for scheme in ("http", "https"):
        yield from page.section(
            f"Throughput, {scheme.upper()}", scheme, Result, partial(sections.throughput, page, scheme)
        )
    yield from page.section("Peers", "peers", peers_result.Result, partial(sections.beside_peers, page))
    yield from page.section("Latency", "latency", list[latency.Measured], partial(sections.paces, page))
    yield from page.section(
        "Many destinations that close their connections",
        "destinations",
        Beside,
        partial(sections.many_destinations, page),
    )
    for name, title in (("slow", "In flight to a slow receiver"), ("slow-https", "The same over HTTPS")):
        yield from page.section(title, name, slow.Measured, partial(sections.in_flight, page, name))
    yield from sections.floods(page)
    yield from page.section("Retries that wait", "schedules", schedules.Measured, sections.waiting)
    yield from page.section("Secrets, cold and warm", "secrets", list[secrets.Row], sections.resolves)
    yield from page.section("Publishing through the API", "api", dict[str, api.Measured], partial(sections.posts, page))
    yield from page.section("Telemetry", "telemetry", list[telemetry.Told], partial(sections.exports, page))
    yield from page.section("Processes", "processes", list[processes.Measured], partial(sections.by_processes, page))


def _summary(page: Page) -> Lines:
    yield from table(
        ("what", "measured", "wanted", ""),
        ((goal.what, goal.measured, goal.wanted, "" if goal.is_met else "**missed**") for goal in goals(page.found)),
    )
    yield ""


def _span(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.1f} to {max(numbers):.1f}" if numbers else "not measured"


def _when(times: Sequence[datetime]) -> str:
    days = sorted({f"{time:%Y-%m-%d}" for time in times})
    return " and ".join(dict.fromkeys((days[0], days[-1]))) if days else "never"
