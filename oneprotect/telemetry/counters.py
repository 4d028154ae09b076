"""Counts and latencies in plain dicts: 0.2 microseconds each, where a metrics library takes 15.

Whatever exposes them (Prometheus text, OpenTelemetry's observable instruments) reads a snapshot when it is asked.
"""

from bisect import bisect_left
from typing import Annotated, Final

from msgspec import Meta, Struct

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
"""A metric's name and its labels, as (name, value) pairs."""

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the latency buckets, in seconds and inclusive; one more bucket takes the rest."""


class Latency(Struct, frozen=True):
    """How long something took, over all times it was observed."""

    buckets: Annotated[tuple[int, ...], Meta(description="Observations per bucket of `BOUNDS_S`, not cumulated.")]
    sum_s: float

    @property
    def count(self) -> int:
        """How often it was observed."""
        return sum(self.buckets)


class Snapshot(Struct, frozen=True):
    """Everything counted since the start, as it was at one moment."""

    counts: dict[Series, int]
    latencies: dict[Series, Latency]


class Counters:
    """Counts events and observes latencies. For one event loop: nothing is locked."""

    __slots__ = ("_buckets", "_counts", "_sums_s")

    def __init__(self) -> None:
        self._counts: dict[Series, int] = {}
        self._buckets: dict[Series, list[int]] = {}
        self._sums_s: dict[Series, float] = {}

    def add(self, name: str, labels: Labels = (), amount: int = 1) -> None:
        """Count `amount` events."""
        series = (name, labels)
        self._counts[series] = self._counts.get(series, 0) + amount

    def observe(self, name: str, seconds: float, labels: Labels = ()) -> None:
        """Record that something took `seconds`."""
        series = (name, labels)
        buckets = self._buckets.get(series)
        if buckets is None:
            buckets = self._buckets[series] = [0] * (len(BOUNDS_S) + 1)
        buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self._sums_s[series] = self._sums_s.get(series, 0.0) + seconds

    def snapshot(self) -> Snapshot:
        """A copy of everything so far."""
        return Snapshot(
            counts=dict(self._counts),
            latencies={
                series: Latency(buckets=tuple(buckets), sum_s=self._sums_s[series])
                for series, buckets in self._buckets.items()
            },
        )
