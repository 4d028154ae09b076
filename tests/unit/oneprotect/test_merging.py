"""Figures of several processes made into one."""

from oneprotect.supervisor.metrics_merge import merged, remains
from telemetry.metrics import definitions as catalogue
from telemetry.metrics.child_reports import Report
from telemetry.metrics.registry import Counters, Reading, Snapshot


def told(*readings: Reading, observed_s: float | None = None) -> Snapshot:
    """What a process tells."""
    counters = Counters()
    counters.watch(lambda: readings)
    if observed_s is not None:
        counters.observe(catalogue.WAIT, observed_s)
    return counters.snapshot()


def test_counts_and_shares_are_added_and_views_are_not() -> None:
    """Counters, latencies and shares of a whole add up; what all see alike is taken once, and the worst counts."""
    one = told(
        (catalogue.FED, (), 3),
        (catalogue.IN_FLIGHT, (), 2),
        (catalogue.SCHEDULED, (), 7),
        (catalogue.CONNECTED, (), 1),
        (catalogue.LOOP_LAG, (), 0.5),
        observed_s=0.02,
    )
    other = told(
        (catalogue.FED, (), 4),
        (catalogue.IN_FLIGHT, (), 5),
        (catalogue.SCHEDULED, (), 7),
        (catalogue.CONNECTED, (), 0),
        (catalogue.LOOP_LAG, (), 0.1),
        observed_s=0.03,
    )

    together = merged([one, other])

    assert together.values == {
        (catalogue.FED.name, ()): 7,
        (catalogue.IN_FLIGHT.name, ()): 7,
        (catalogue.SCHEDULED.name, ()): 7,
        (catalogue.CONNECTED.name, ()): 0,
        (catalogue.LOOP_LAG.name, ()): 0.5,
    }
    latency = together.latencies[catalogue.WAIT.name, ()]
    assert (latency.count, round(latency.sum_s, 3)) == (2, 0.05)


def test_what_has_ended_leaves_its_counts_alone() -> None:
    """The counts of a process that has ended stay, its state goes."""
    ended = told((catalogue.FED, (), 3), (catalogue.IN_FLIGHT, (), 2), observed_s=0.02)

    left = remains(ended)

    assert left.values == {(catalogue.FED.name, ()): 3}
    assert left.latencies == ended.latencies


def test_a_report_carries_a_snapshot() -> None:
    """What a process tells its supervisor is what it would have shown itself."""
    snapshot = told((catalogue.READY, (), True), (catalogue.EXPORTS, (("signal", "traces"),), 2), observed_s=0.2)

    assert Report.of("ready", snapshot).snapshot == snapshot
