"""Performance goals, and the results of a run beside them, as the Markdown table of docs/explanation/performance.md."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct

from bench import api, fairness, latency, schedules, slow, telemetry
from bench.harness.comparison import Beside
from bench.harness.result import Result
from bench.peers.result import TITLES
from bench.peers.result import Result as Peers

Find = Callable[[str, type[Any]], Any]
"""Returns the result of a measurement by its name and type, or None when the run has none."""

P95_AT_PER_S: Final = 200
WANTED_P95_MS: Final = 15.0
WANTED_TELEMETRY: Final = 0.9
WANTED_PEERS: Final = 3.0


class Goal(Struct, frozen=True):
    """A measured figure and its target; one without a target counts as met."""

    what: str
    measured: str
    wanted: str = ""
    is_met: bool = True


def goals_table(find: Find) -> Iterator[str]:
    """Yield the lines of a Markdown table of all goals."""
    yield "| measurement | result | target | |"
    yield "|---|---|---|---|"
    for goal in goals(find):
        yield f"| {goal.what} | {goal.measured} | {goal.wanted} | {'' if goal.is_met else '**missed**'} |"


def goals(find: Find) -> Iterator[Goal]:
    """Yield the goals of every measurement that has a result."""
    yield from _throughput(find("http", Result), "HTTP", wanted=(0.8, 2.0))
    yield from _throughput(find("https", Result), "HTTPS", wanted=(0.75, 1.6))
    if peers := find("peers", Peers):
        yield from _peers(peers)
    for one in find("latency", list[latency.Measured]) or ():
        if one.asked_per_s == P95_AT_PER_S:
            p95_ms = one.product.p95_ms
            what = f"publish to receipt, p95 at {P95_AT_PER_S}/s"
            yield Goal(what, f"{p95_ms:.1f} ms", f"< {WANTED_P95_MS:g} ms", p95_ms < WANTED_P95_MS)
    if flood := find("fairness", fairness.Measured):
        what = f"the same of others, while {flood.options.flood:,} of one tenant wait: p99"
        wanted_ms = fairness.WANTED_P99_MS
        yield Goal(what, f"{flood.p99_ms:.1f} ms", f"< {wanted_ms:g} ms", flood.p99_ms < wanted_ms)
    yield from _telemetry(find("telemetry", list[telemetry.Told]))
    if few := find("destinations", Beside):
        yield Goal("a connection and TLS handshake for each delivery", f"{few.product.per_s:,.0f}/s")
    if held := find("slow", slow.Measured):
        yield Goal(f"memory of a delivery in flight, of {held.product.at_once:,}", f"{held.product.kb_each:.1f} KB")
    if waiting := find("schedules", schedules.Measured):
        what = f"retries that come due at one instant, of {waiting.count:,} that wait"
        yield Goal(what, f"at most {waiting.late_s[2]:.2f} s late, none lost")
    if posts := find("api", dict[str, api.Measured]):
        product, bare = posts["product"], posts["bare loop"]
        of_bare = product.per_s / bare.per_s
        yield Goal("POST to the API, stored before its 202", f"{product.per_s:,.0f}/s, {of_bare:.2f} of a bare loop")


def _throughput(found: Result | None, scheme: str, *, wanted: tuple[float, float]) -> Iterator[Goal]:
    if found is None:
        return
    own, by_aiohttp = wanted
    yield Goal(f"one process, {scheme}", f"{found.product.median.per_s:,.0f} deliveries/s")
    yield Goal("- of the bare loop with its own HTTP", f"{found.ratio:.2f}", f"{own:g}", found.ratio >= own)
    is_met = found.ratio_aiohttp >= by_aiohttp
    yield Goal("- of the bare loop with aiohttp", f"{found.ratio_aiohttp:.2f}", f"{by_aiohttp:g}", is_met)


def _peers(found: Peers) -> Iterator[Goal]:
    what = "CPU time of the whole system, of the product's: "
    if found.ratio and found.best:
        is_met = found.ratio >= WANTED_PEERS
        yield Goal(what + TITLES[found.best], f"{found.ratio:.2f}", f"{WANTED_PEERS:g}", is_met)
    if found.best_any != found.best:
        yield Goal(f"- {TITLES[found.best_any]}", f"{found.ratio_any:.2f}")


def _telemetry(found: list[telemetry.Told] | None) -> Iterator[Goal]:
    for one in found or ():
        if one.name == telemetry.WAYS[1].name:
            is_met = one.cpu_share > WANTED_TELEMETRY
            yield Goal("throughput by CPU with 5 % of traces and metrics", f"{one.cpu_share:.2f}", "> 0.9", is_met)
