"""Counts and latency buckets."""

from oneprotect.telemetry.counters import BOUNDS_S, Counters

DELIVERED = (("outcome", "delivered"),)
FAILED = (("outcome", "failed"),)


def test_counts_by_name_and_labels() -> None:
    """Each name and set of labels counts by itself."""
    counters = Counters()

    counters.add("attempts", DELIVERED)
    counters.add("attempts", DELIVERED, 2)
    counters.add("attempts", FAILED)
    counters.add("starts")

    assert counters.snapshot().counts == {("attempts", DELIVERED): 3, ("attempts", FAILED): 1, ("starts", ()): 1}


def test_latency_buckets() -> None:
    """A latency counts in the first bucket whose bound it does not exceed, and beyond all bounds in the last."""
    counters = Counters()

    for seconds in (0.0, BOUNDS_S[0], 0.006, 31.0):
        counters.observe("attempt", seconds, DELIVERED)

    latency = counters.snapshot().latencies["attempt", DELIVERED]
    assert latency.buckets == (2, 1, *[0] * (len(BOUNDS_S) - 2), 1)
    assert (latency.count, round(latency.sum_s, 3)) == (4, 31.011)


def test_snapshots_stand_still() -> None:
    """A snapshot does not change with what is counted after it."""
    counters = Counters()
    counters.add("attempts")
    counters.observe("attempt", 1.0)

    before = counters.snapshot()
    counters.add("attempts")
    counters.observe("attempt", 1.0)

    assert before.counts == {("attempts", ()): 1}
    assert before.latencies["attempt", ()].count == 1
    assert counters.snapshot().counts == {("attempts", ()): 2}
