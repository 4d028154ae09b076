"""The Grafana dashboard, `deploy/grafana/oneprotect.json`, generated from the catalogue of metrics.

`python -m tools.grafana_dashboard > deploy/grafana/oneprotect.json` refreshes it; a test fails when it is stale.
Every consumer tells the same backlog, so those figures are maxima; what each counts for itself is summed.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from telemetry.metrics import definitions
from telemetry.metrics.definitions import MetricDefinition

Json = dict[str, Any]

_OF: Final = 'namespace=~"$namespace"'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
_HEIGHT: Final = 8


class Panel(Struct, frozen=True):
    """A panel with its description and unit. `queries`: (legend, PromQL)."""

    title: str
    why: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    warn_at: float | None = None


def _rate(metric: MetricDefinition, *by: str, where: str = "") -> str:
    return f"sum{_by(by)} (rate({_select(metric.name, where)}[$__rate_interval]))"


def _top(metric: MetricDefinition, *by: str, where: str = "") -> str:
    return f"max{_by(by)} ({_select(metric.name, where)})"


def _sum(metric: MetricDefinition, *by: str, where: str = "") -> str:
    return f"sum{_by(by)} ({_select(metric.name, where)})"


def _quantile(share: float, metric: MetricDefinition, *, where: str = "") -> str:
    buckets = _select(metric.name + "_bucket", where)
    return f"histogram_quantile({share}, sum by (le) (rate({buckets}[$__rate_interval])))"


def _select(name: str, where: str) -> str:
    return f"{name}{{{','.join(filter(None, (_OF, where)))}}}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _quantiles(metric: MetricDefinition, *, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((f"p{share * 100:g}", _quantile(share, metric, where=where)) for share in (0.5, 0.95, 0.99))


def _stream(name: str) -> str:
    return f'stream="ONEPROTECT_{name}"'


_WELL: Final = 'outcome="delivered"'
ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Deliveries",
        (
            Panel(
                "Delivered",
                "Delivered deliveries per second.",
                (("delivered/s", _rate(definitions.DELIVERIES, where=_WELL)),),
                "ops",
                "stat",
                4,
            ),
            Panel(
                "Failed deliveries",
                "Failed deliveries per second. They can be replayed.",
                (("failed/s", _rate(definitions.DELIVERIES, where='outcome="failed"')),),
                "ops",
                "stat",
                4,
                0.01,
            ),
            Panel(
                "In flight",
                "Attempts in progress, and their limit.",
                (("share", f"{_sum(definitions.IN_FLIGHT)} / {_sum(definitions.IN_FLIGHT_LIMIT)}"),),
                "percentunit",
                "stat",
                4,
                0.9,
            ),
            Panel(
                "Lag",
                "Due messages that no worker has received yet.",
                (("{{stream}}", _top(definitions.PENDING, "stream")),),
                "short",
                "stat",
                4,
                1000,
            ),
            Panel(
                "Overflow",
                "Requests beyond the limit of their destination.",
                (("waiting", _top(definitions.STREAM_MESSAGES, where=_stream("OVERFLOW"))),),
                "short",
                "stat",
                4,
                1,
            ),
            Panel(
                "Broken credentials",
                "Deliveries that need them wait or fail.",
                (
                    (
                        "broken",
                        "sum (max by (status) ("
                        + _select(definitions.CREDENTIALS.name, 'status!~"configured|unchecked"')
                        + "))",
                    ),
                ),
                "short",
                "stat",
                4,
                1,
            ),
            Panel(
                "Deliveries by outcome",
                "Delivered, failed and skipped deliveries.",
                (("{{outcome}}", _rate(definitions.DELIVERIES, "outcome")),),
                "ops",
                width=12,
            ),
            Panel(
                "Attempts that did not deliver",
                "By result code.",
                (
                    (
                        "{{outcome}} {{code}}",
                        _rate(definitions.ATTEMPTS, "outcome", "code", where='outcome!="delivered"'),
                    ),
                ),
                "ops",
                width=12,
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Delivery latency",
                "Time from the event to the receiver's 2xx, retries included.",
                _quantiles(definitions.LATENCY),
                "s",
            ),
            Panel(
                "Queue wait",
                "Time from storage to the start of the attempt. High with too few workers, or at a destination limit.",
                _quantiles(definitions.QUEUE_WAIT),
                "s",
            ),
            Panel("POST", "Duration of requests to receivers.", _quantiles(definitions.SEND), "s"),
        ),
    ),
    (
        "Backlog and fairness",
        (
            Panel(
                "Messages in the streams",
                "Work, overflow and retries are the backlog.",
                (("{{stream}}", _top(definitions.STREAM_MESSAGES, "stream")),),
            ),
            Panel(
                "Oldest message",
                "Age of the oldest due delivery.",
                (
                    (
                        "{{stream}}",
                        _top(definitions.STREAM_OLDEST, "stream", where='stream=~"ONEPROTECT_(WORK|OVERFLOW)"'),
                    ),
                ),
                "s",
            ),
            Panel(
                "Destinations with work",
                "Few destinations with many messages: a flood, which does not delay others.",
                (
                    (
                        "{{stream}}",
                        _top(definitions.STREAM_SUBJECTS, "stream", where='stream=~"ONEPROTECT_(WORK|OVERFLOW)"'),
                    ),
                ),
            ),
            Panel(
                "Unacknowledged messages and lag",
                "Messages delivered to workers, and messages not delivered yet.",
                (
                    ("in hand, {{stream}}", _top(definitions.ACK_PENDING, "stream")),
                    ("lag, {{stream}}", _top(definitions.PENDING, "stream")),
                    ("asked for, {{stream}}", _top(definitions.WAITING, "stream")),
                ),
            ),
            Panel(
                "Scheduled retries",
                "Overdue schedules are a fault of the NATS server.",
                (("waiting", _top(definitions.SCHEDULED)), ("overdue", _top(definitions.OVERDUE))),
            ),
            Panel(
                "Overflow in and out",
                "Requests beyond the limit of their destination or the share of their tenant, and requests moved back.",
                (
                    ("refused/s", _rate(definitions.PUBLISH_FAILURES, where='reason="subject_full"')),
                    ("shed/s", _rate(definitions.SHED)),
                    ("fed back/s", _rate(definitions.FED)),
                ),
                "ops",
            ),
            Panel(
                "Replays",
                "Requested deliveries, and stream sequences still ahead.",
                (
                    ("running", _top(definitions.REPLAYS)),
                    ("asked for", _top(definitions.REPLAY_ASKED)),
                    ("before them", _top(definitions.REPLAY_LEFT)),
                    ("{{outcome}}/s", _rate(definitions.REPLAYED, "outcome")),
                ),
                width=12,
            ),
            Panel(
                "Storage",
                "Disk space used by JetStream, and its limit.",
                (
                    ("used", _top(definitions.STORAGE)),
                    ("limit", _top(definitions.STORAGE_LIMIT)),
                    ("{{stream}}", _top(definitions.STREAM_BYTES, "stream")),
                ),
                "bytes",
                width=12,
            ),
        ),
    ),
    (
        "Secrets",
        (
            Panel(
                "Cache",
                "Misses wait for a read. Stale Secrets are used while the provider is unavailable.",
                (
                    ("hits/s", _rate(definitions.CACHE_HITS)),
                    ("misses/s", _rate(definitions.CACHE_MISSES)),
                    ("read ahead/s", _rate(definitions.CACHE_REFRESHES)),
                    ("stale/s", _rate(definitions.CACHE_STALE)),
                ),
                "ops",
            ),
            Panel("Failed reads", "By result code.", (("{{code}}", _rate(definitions.READ_FAILURES, "code")),), "ops"),
            Panel(
                "Age of cached Secrets",
                "Secrets older than ONEPROTECT_SECRET_MAX_STALE_S do not sign.",
                (("oldest", _top(definitions.CACHE_OLDEST)), ("Secrets", _sum(definitions.CACHE_ENTRIES))),
                "s",
            ),
            Panel("Credentials", "By status.", (("{{status}}", _top(definitions.CREDENTIALS, "status")),), width=24),
        ),
    ),
    (
        "Health of destinations",
        (
            Panel(
                "Circuit breakers open and half-open",
                "An open circuit breaker pauses a destination that only fails.",
                (("{{state}}", _top(definitions.DESTINATIONS, "state")),),
            ),
            Panel(
                "Deferred",
                "Requests deferred because of an open circuit breaker.",
                (("put off/s", _rate(definitions.DEFERRALS)),),
                "ops",
            ),
            Panel(
                "Blocked, suppressed, quarantined",
                "By the egress policy; duplicates not sent again; attempts made twice; undecodable messages.",
                (
                    ("blocked/s", _rate(definitions.BLOCKED)),
                    ("suppressed/s", _rate(definitions.SUPPRESSED)),
                    ("repeated ids/s", _rate(definitions.REPEATED_IDS)),
                    ("made twice/s", _rate(definitions.REPEATED_ATTEMPTS)),
                    ("quarantined/s", _rate(definitions.QUARANTINED)),
                ),
                "ops",
            ),
        ),
    ),
    (
        "Runtime",
        (
            Panel(
                "Processes",
                "Running processes by version and role.",
                (
                    ("{{role}} {{version}}", f"count by (role, version) ({_select(definitions.BUILD.name, '')})"),
                    ("ready", _sum(definitions.READY)),
                    ("connected to NATS", _sum(definitions.CONNECTED)),
                    ("supervised", _sum(definitions.SUPERVISED)),
                ),
            ),
            Panel("CPU", "CPU seconds per second.", (("{{pod}}", _rate(definitions.CPU, "pod")),)),
            Panel("Memory", "Resident memory.", (("{{pod}}", _top(definitions.MEMORY, "pod")),), "bytes"),
            Panel("Event loop", "Delay of timers.", (("{{pod}}", _top(definitions.LOOP_LAG, "pod")),), "s"),
            Panel(
                "Open files",
                "Share of the limit.",
                (("{{pod}}", f"{_top(definitions.FILES, 'pod')} / {_top(definitions.FILES_LIMIT, 'pod')}"),),
                "percentunit",
            ),
            Panel(
                "NATS and crashes",
                "Reconnects, failed publishes and crashes.",
                (
                    (
                        "{{reason}} not stored/s",
                        _rate(definitions.PUBLISH_FAILURES, "reason", where='reason!="subject_full"'),
                    ),
                    ("reconnects/s", _rate(definitions.RECONNECTS)),
                    ("forbidden/s", _rate(definitions.FORBIDDEN)),
                    ("crashes/s", _rate(definitions.CRASHES)),
                    ("restarts/s", _rate(definitions.RESTARTS)),
                ),
                "ops",
            ),
            Panel(
                "Unsettled messages",
                "Messages received from NATS and not yet acknowledged or returned.",
                (("{{pod}}", _top(definitions.UNSETTLED, "pod")),),
            ),
            Panel(
                "Telemetry",
                "Sampled traces and exports.",
                (
                    ("{{decision}}/s", _rate(definitions.TRACES, "decision")),
                    ("{{signal}} {{result}}/s", _rate(definitions.EXPORTS, "signal", "result")),
                ),
                "ops",
            ),
            Panel(
                "API",
                "Requests by status, and their duration.",
                (
                    ("{{status}}/s", _rate(definitions.HTTP_REQUESTS, "status")),
                    ("p95, seconds", _quantile(0.95, definitions.HTTP_DURATION)),
                ),
                "ops",
            ),
        ),
    ),
)


def dashboard() -> Json:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "oneprotect-delivery",
        "title": "OneProtect Delivery",
        "description": "Deliveries, latency, backlog, secrets, destinations and processes. See docs/how-to/monitor.md.",
        "tags": ["oneprotect"],
        "timezone": "utc",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }


def _variables() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    yield {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({definitions.BUILD.name}, namespace)", "refId": "namespaces"},
        "definition": f"label_values({definitions.BUILD.name}, namespace)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
        "hide": 0,
    }


def _panels() -> Iterator[Json]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": _at(0, y, _WIDTH, 1),
            "panels": [],
        }
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            height = 4 if panel.kind == "stat" else _HEIGHT
            if x + panel.width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            yield _panel(panel, number, _at(x, y, panel.width, height))
            x, tallest = x + panel.width, max(tallest, height)
        y += tallest


def _at(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: Json) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.warn_at is not None:
        steps.append({"color": "orange", "value": panel.warn_at})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.why,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        if panel.kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for place, (legend, query) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(dashboard()), indent=2) + b"\n")
