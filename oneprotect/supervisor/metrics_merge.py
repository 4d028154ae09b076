"""Combined metrics of several processes.

The counters of an ended process stay in the sums, because counters must not decrease.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Final

from telemetry.metrics import definitions
from telemetry.metrics.definitions import CATALOGUE
from telemetry.metrics.registry import LatencySnapshot, MetricSnapshot, Series

_SUMMED: Final = frozenset(
    metric.name
    for metric in (
        *(metric for metric in CATALOGUE.values() if metric.kind == "counter"),
        definitions.IN_FLIGHT,
        definitions.IN_FLIGHT_LIMIT,
        definitions.UNSETTLED,
        definitions.CACHE_ENTRIES,
        definitions.MEMORY,
        definitions.FILES,
    )
)
_MINIMUM: Final = frozenset(
    metric.name for metric in (definitions.CONNECTED, definitions.STARTED, definitions.FILES_LIMIT)
)


def merge_snapshots(snapshots: Iterable[MetricSnapshot]) -> MetricSnapshot:
    """Return the sum of counters and shares, and the maximum or minimum of other gauges."""
    values: dict[Series, float] = {}
    latencies: dict[Series, LatencySnapshot] = {}
    for snapshot in snapshots:
        for series, value in snapshot.values.items():
            values[series] = _combine(series[0])(values[series], value) if series in values else value
        for series, latency in snapshot.latencies.items():
            latencies[series] = _add(latencies[series], latency) if series in latencies else latency
    return MetricSnapshot(values=values, latencies=latencies)


def final_counters(snapshot: MetricSnapshot) -> MetricSnapshot:
    """Return the counters and latencies of a process that ended, without its gauges."""
    values = {series: value for series, value in snapshot.values.items() if CATALOGUE[series[0]].kind == "counter"}
    return MetricSnapshot(values=values, latencies=snapshot.latencies)


def _combine(name: str) -> Callable[[float, float], float]:
    if name in _SUMMED:
        return operator.add
    return min if name in _MINIMUM else max


def _add(one: LatencySnapshot, other: LatencySnapshot) -> LatencySnapshot:
    buckets = tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True))
    return LatencySnapshot(buckets=buckets, sum_s=one.sum_s + other.sum_s)
