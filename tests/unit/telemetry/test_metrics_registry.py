"""Counters, latency buckets, and their text format."""

import pytest

from telemetry.metrics import definitions
from telemetry.metrics.definitions import CATALOGUE, SEND, SHORT_S
from telemetry.metrics.prometheus_text import render
from telemetry.metrics.registry import MetricRegistry

DELIVERED = (("outcome", "delivered"),)
FAILED = (("outcome", "failed"),)
ATTEMPTS = "oneprotect_replayed_attempts_total"


def test_counts_by_metric_and_labels() -> None:
    """Each metric and set of labels counts by itself."""
    counters = MetricRegistry()

    counters.add(definitions.REPLAYED, DELIVERED)
    counters.add(definitions.REPLAYED, DELIVERED, 2)
    counters.add(definitions.REPLAYED, FAILED)
    counters.add(definitions.DEFERRALS)

    assert counters.snapshot().values == {
        (ATTEMPTS, DELIVERED): 3,
        (ATTEMPTS, FAILED): 1,
        ("oneprotect_deferrals_total", ()): 1,
    }


def test_latency_buckets() -> None:
    """A latency counts in the first bucket whose bound it does not exceed, or in the last."""
    counters = MetricRegistry()

    for seconds in (0.0, SHORT_S[0], 0.006, 31.0):
        counters.observe(SEND, seconds, DELIVERED)

    latency = counters.snapshot().latencies[SEND.name, DELIVERED]
    assert latency.buckets == (2, 1, *[0] * (len(SHORT_S) - 2), 1)
    assert (latency.count, round(latency.sum_s, 3)) == (4, 31.011)


def test_a_snapshot_does_not_change() -> None:
    """Later counts do not change a snapshot."""
    counters = MetricRegistry()
    counters.add(definitions.DEFERRALS)
    counters.observe(SEND, 1.0)

    before = counters.snapshot()
    counters.add(definitions.DEFERRALS)
    counters.observe(SEND, 1.0)

    assert before.values == {("oneprotect_deferrals_total", ()): 1}
    assert before.latencies[SEND.name, ()].count == 1
    assert counters.snapshot().values == {("oneprotect_deferrals_total", ()): 2}


def test_sources_are_read_with_each_snapshot() -> None:
    """Each snapshot reads the current values of its sources."""
    counters = MetricRegistry()
    numbers = iter([1, 2])
    counters.add_source(lambda: [(definitions.UNSETTLED, (), next(numbers))])

    values = [counters.snapshot().values[definitions.UNSETTLED.name, ()] for _ in range(2)]

    assert values == [1, 2]


def test_the_text_that_prometheus_reads() -> None:
    """Each metric has its help and type once, escaped labels, and buckets cumulated up to +Inf."""
    counters = MetricRegistry()
    counters.add(definitions.REPLAYED, (("outcome", 'a"b\\c\nd'),), 2)
    counters.observe(SEND, 0.02, DELIVERED)
    counters.observe(SEND, 0.3, DELIVERED)

    lines = render(counters.snapshot()).decode().splitlines()

    assert lines[:3] == [
        f"# HELP {ATTEMPTS} Attempts that a replay requested.",
        f"# TYPE {ATTEMPTS} counter",
        f'{ATTEMPTS}{{outcome="a\\"b\\\\c\\nd"}} 2',
    ]
    assert lines[3:5] == [f"# HELP {SEND.name} {SEND.help}", f"# TYPE {SEND.name} histogram"]
    assert f'{SEND.name}_bucket{{outcome="delivered",le="0.01"}} 0' in lines
    assert f'{SEND.name}_bucket{{outcome="delivered",le="0.025"}} 1' in lines
    assert f'{SEND.name}_bucket{{outcome="delivered",le="30"}} 2' in lines
    assert lines[-3:] == [
        f'{SEND.name}_bucket{{outcome="delivered",le="+Inf"}} 2',
        f'{SEND.name}_sum{{outcome="delivered"}} 0.32',
        f'{SEND.name}_count{{outcome="delivered"}} 2',
    ]


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=str)
def test_names_follow_the_rules(metric: definitions.MetricDefinition) -> None:
    """Counters end in `_total`, histograms in their unit, and help is one line that ends as a sentence."""
    assert metric.name.startswith("oneprotect_")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.bounds_s)
    assert metric.kind != "histogram" or metric.name.endswith("_seconds")
    assert metric.help.endswith(".")
    assert "\n" not in metric.help


def test_a_renamed_metric_keeps_its_former_name_for_one_release() -> None:
    """The former name has the same values, and its help names the new one."""
    counters = MetricRegistry()
    counters.observe(definitions.QUEUE_WAIT, 0.02)
    counters.add_source(lambda: [(definitions.UNSETTLED, (), 3)])

    lines = render(counters.snapshot()).decode().splitlines()

    assert {"oneprotect_unsettled_messages 3", "oneprotect_held_messages 3"} <= set(lines)
    assert {"oneprotect_queue_wait_seconds_count 1", "oneprotect_wait_seconds_count 1"} <= set(lines)
    assert "# HELP oneprotect_wait_seconds Deprecated: use oneprotect_queue_wait_seconds." in lines
