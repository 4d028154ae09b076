"""One figure out of several processes': what adds up is added, and of what each sees alike one is taken.

A process that has ended goes on counting in the sums with what it had counted, or counters would fall.
"""

from collections.abc import Callable, Iterable
from typing import Final

from telemetry.metrics import definitions
from telemetry.metrics.definitions import CATALOGUE
from telemetry.metrics.registry import LatencySnapshot, MetricSnapshot, Series

_ADDED: Final = frozenset(
    metric.name
    for metric in (
        *(metric for metric in CATALOGUE.values() if metric.kind == "counter"),
        definitions.IN_FLIGHT,
        definitions.IN_FLIGHT_LIMIT,
        definitions.HELD,
        definitions.CACHE_ENTRIES,
        definitions.MEMORY,
        definitions.FILES,
    )
)
_LEAST: Final = frozenset(
    metric.name for metric in (definitions.CONNECTED, definitions.STARTED, definitions.FILES_LIMIT)
)


def merged(snapshots: Iterable[MetricSnapshot]) -> MetricSnapshot:
    """Counters and what is a share of a whole are added; of other gauges the highest counts, or the lowest."""
    values: dict[Series, float] = {}
    latencies: dict[Series, LatencySnapshot] = {}
    for snapshot in snapshots:
        for series, value in snapshot.values.items():
            values[series] = _together(series[0])(values[series], value) if series in values else value
        for series, latency in snapshot.latencies.items():
            latencies[series] = _added(latencies[series], latency) if series in latencies else latency
    return MetricSnapshot(values=values, latencies=latencies)


def final_counters(snapshot: MetricSnapshot) -> MetricSnapshot:
    """What is left of the figures of a process that has ended: counts, and no state."""
    values = {series: value for series, value in snapshot.values.items() if CATALOGUE[series[0]].kind == "counter"}
    return MetricSnapshot(values=values, latencies=snapshot.latencies)


def _together(name: str) -> Callable[[float, float], float]:
    if name in _ADDED:
        return _sum
    return min if name in _LEAST else max


def _sum(one: float, other: float) -> float:
    return one + other


def _added(one: LatencySnapshot, other: LatencySnapshot) -> LatencySnapshot:
    buckets = tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True))
    return LatencySnapshot(buckets=buckets, sum_s=one.sum_s + other.sum_s)
