"""Figures of several processes made into one."""

from oneprotect.supervisor.metrics_merge import final_counters, merge_snapshots
from telemetry.metrics import definitions
from telemetry.metrics.child_reports import ChildReport
from telemetry.metrics.registry import MetricRegistry, MetricSample, MetricSnapshot


def snapshot_of(*readings: MetricSample, observed_s: float | None = None) -> MetricSnapshot:
    """Return the snapshot of a process."""
    counters = MetricRegistry()
    counters.add_source(lambda: readings)
    if observed_s is not None:
        counters.observe(definitions.QUEUE_WAIT, observed_s)
    return counters.snapshot()


def test_counts_and_shares_are_added_and_views_are_not() -> None:
    """Counters, latencies and shares are added; shared views count once, and the worst value wins."""
    one = snapshot_of(
        (definitions.FED, (), 3),
        (definitions.IN_FLIGHT, (), 2),
        (definitions.SCHEDULED, (), 7),
        (definitions.CONNECTED, (), 1),
        (definitions.LOOP_LAG, (), 0.5),
        observed_s=0.02,
    )
    other = snapshot_of(
        (definitions.FED, (), 4),
        (definitions.IN_FLIGHT, (), 5),
        (definitions.SCHEDULED, (), 7),
        (definitions.CONNECTED, (), 0),
        (definitions.LOOP_LAG, (), 0.1),
        observed_s=0.03,
    )

    together = merge_snapshots([one, other])

    assert together.values == {
        (definitions.FED.name, ()): 7,
        (definitions.IN_FLIGHT.name, ()): 7,
        (definitions.SCHEDULED.name, ()): 7,
        (definitions.CONNECTED.name, ()): 0,
        (definitions.LOOP_LAG.name, ()): 0.5,
    }
    latency = together.latencies[definitions.QUEUE_WAIT.name, ()]
    assert (latency.count, round(latency.sum_s, 3)) == (2, 0.05)


def test_an_ended_process_leaves_only_its_counts() -> None:
    """The merge keeps the counts of an ended process and drops its state."""
    ended = snapshot_of((definitions.FED, (), 3), (definitions.IN_FLIGHT, (), 2), observed_s=0.02)

    left = final_counters(ended)

    assert left.values == {(definitions.FED.name, ()): 3}
    assert left.latencies == ended.latencies


def test_a_report_carries_a_snapshot() -> None:
    """A process reports to its supervisor the metrics that it would show itself."""
    snapshot = snapshot_of(
        (definitions.READY, (), True), (definitions.EXPORTS, (("signal", "traces"),), 2), observed_s=0.2
    )

    assert ChildReport.of("ready", snapshot).snapshot == snapshot
