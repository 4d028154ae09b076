"""Counters and histograms in plain dicts, because a metrics library is too slow for the hot path.

Sources (`add_source`) are read with each snapshot. Prometheus text and OTLP export snapshots. Nothing is locked: counts
and snapshots belong to one event loop.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Annotated

from msgspec import Meta, Struct

from telemetry.metrics.definitions import FORMER_NAMES, MetricDefinition

Labels = tuple[tuple[str, str], ...]
"""Labels as (name, value) pairs."""
Series = tuple[str, Labels]
"""A metric's name and labels."""
MetricSample = tuple[MetricDefinition, Labels, float]
"""The current value of a series."""


class LatencySnapshot(Struct, frozen=True):
    """The observations of a histogram."""

    buckets: Annotated[
        tuple[int, ...], Meta(description="Observations per bucket, not cumulative; the last bucket has no bound.")
    ]
    sum_s: float

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.buckets)


class MetricSnapshot(Struct, frozen=True):
    """All values and histograms at one moment."""

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
    """Counts of durations by bucket."""

    __slots__ = ("bounds_s", "buckets", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.buckets = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Record a duration. The hot path contains these two lines itself."""
        self.buckets[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def read(self) -> LatencySnapshot:
        """Return the observations so far."""
        return LatencySnapshot(buckets=tuple(self.buckets), sum_s=self.sum_s)


class MetricRegistry:
    """The counters and histograms of the catalogue's metrics."""

    __slots__ = ("_counts", "_histograms", "_sources")

    def __init__(self) -> None:
        self._counts: dict[Series, float] = {}
        self._histograms: dict[Series, LatencyHistogram] = {}
        self._sources: list[Callable[[], Iterable[MetricSample]]] = []

    def add(self, metric: MetricDefinition, labels: Labels = (), amount: float = 1) -> None:
        """Add `amount` to a counter."""
        series = (metric.name, labels)
        self._counts[series] = self._counts.get(series, 0) + amount

    def histogram(self, metric: MetricDefinition, labels: Labels = ()) -> LatencyHistogram:
        """Return the histogram of a series."""
        series = (metric.name, labels)
        histogram = self._histograms.get(series)
        if histogram is None:
            histogram = self._histograms[series] = LatencyHistogram(metric.bounds_s)
        return histogram

    def observe(self, metric: MetricDefinition, seconds: float, labels: Labels = ()) -> None:
        """Record a duration in a histogram."""
        self.histogram(metric, labels).observe(seconds)

    def add_source(self, source: Callable[[], Iterable[MetricSample]]) -> None:
        """Read the samples of `source` with each snapshot."""
        self._sources.append(source)

    def snapshot(self) -> MetricSnapshot:
        """Return all counts so far, and the current samples of the sources."""
        values = dict(self._counts)
        for source in self._sources:
            for metric, labels, value in source():
                values[metric.name, labels] = value
        return MetricSnapshot(
            values=values,
            latencies={series: histogram.read() for series, histogram in self._histograms.items()},
        )
