"""Counts and latencies in plain dicts: 0.2 microseconds each, where a metrics library takes 15.

What others count, or know at any moment, is asked for when somebody reads: `watch`. Whatever exposes all that
(Prometheus text, OTLP) takes a snapshot. For one event loop: nothing is locked, and a snapshot is taken on that loop.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Annotated

from msgspec import Meta, Struct

from telemetry.metrics.definitions import FORMER_NAMES, MetricDefinition

Labels = tuple[tuple[str, str], ...]
"""Labels as (name, value) pairs."""
Series = tuple[str, Labels]
"""A metric's name, and its labels."""
MetricSample = tuple[MetricDefinition, Labels, float]
"""The value of a series at this moment."""


class LatencySnapshot(Struct, frozen=True):
    """How long something took, over all times it was observed."""

    buckets: Annotated[tuple[int, ...], Meta(description="Observations per bucket, not cumulated; the last is open.")]
    sum_s: float

    @property
    def count(self) -> int:
        """How often it was observed."""
        return sum(self.buckets)


class MetricSnapshot(Struct, frozen=True):
    """Everything that was counted or could be read, as it was at one moment."""

    values: dict[Series, float]
    latencies: dict[Series, LatencySnapshot]


def with_former_names(snapshot: MetricSnapshot) -> MetricSnapshot:
    """Return a snapshot that holds renamed metrics under their former names as well."""
    values = {(FORMER_NAMES[name], labels): v for (name, labels), v in snapshot.values.items() if name in FORMER_NAMES}
    latencies = {
        (FORMER_NAMES[name], labels): one for (name, labels), one in snapshot.latencies.items() if name in FORMER_NAMES
    }
    return MetricSnapshot(values=snapshot.values | values, latencies=snapshot.latencies | latencies)


class LatencyHistogram:
    """Counts by how long something took."""

    __slots__ = ("bounds_s", "buckets", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.buckets = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """It took so long once more. Who observes with every delivery does these two lines itself."""
        self.buckets[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def read(self) -> LatencySnapshot:
        """What came together so far."""
        return LatencySnapshot(buckets=tuple(self.buckets), sum_s=self.sum_s)


class MetricRegistry:
    """Counts events and observes latencies of metrics in the catalogue."""

    __slots__ = ("_counts", "_histograms", "_sources")

    def __init__(self) -> None:
        self._counts: dict[Series, float] = {}
        self._histograms: dict[Series, LatencyHistogram] = {}
        self._sources: list[Callable[[], Iterable[MetricSample]]] = []

    def add(self, metric: MetricDefinition, labels: Labels = (), amount: float = 1) -> None:
        """Count `amount` events."""
        series = (metric.name, labels)
        self._counts[series] = self._counts.get(series, 0) + amount

    def histogram(self, metric: MetricDefinition, labels: Labels = ()) -> LatencyHistogram:
        """The histogram of a series, for who observes often."""
        series = (metric.name, labels)
        histogram = self._histograms.get(series)
        if histogram is None:
            histogram = self._histograms[series] = LatencyHistogram(metric.bounds_s)
        return histogram

    def observe(self, metric: MetricDefinition, seconds: float, labels: Labels = ()) -> None:
        """Record that something took `seconds`."""
        self.histogram(metric, labels).observe(seconds)

    def watch(self, source: Callable[[], Iterable[MetricSample]]) -> None:
        """Ask `source` for its readings at each snapshot."""
        self._sources.append(source)

    def snapshot(self) -> MetricSnapshot:
        """Everything so far, and what the sources say now."""
        values = dict(self._counts)
        for source in self._sources:
            for metric, labels, value in source():
                values[metric.name, labels] = value
        return MetricSnapshot(
            values=values,
            latencies={series: histogram.read() for series, histogram in self._histograms.items()},
        )
