"""Observation of attempts: counts, latencies, log records and traces."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from consumers.delivery.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest, RetryState
from consumers.observability.attempt_metrics import AttemptMetrics, Logged
from consumers.observability.attempt_tracing import UNUSUAL_PER_S, AttemptTracer
from messaging.client.connection import NatsConnection
from messaging.message import Message
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from telemetry.metrics import definitions
from telemetry.metrics.definitions import MetricDefinition
from telemetry.metrics.registry import MetricRegistry
from telemetry.otlp.settings import ExportSettings
from telemetry.otlp.trace_context import TraceContext, TraceSampler
from tests.support.logs import product_logging

NOW = datetime.now(UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"


def message(number: int) -> Message:
    """A request as the server hands it out, stored two seconds ago."""
    stored_ns = int((NOW - timedelta(seconds=2)).timestamp() * 1e9)
    reply = f"$JS.ACK.ONEPROTECT_WORK.delivery.1.{number}.{number}.{stored_ns}.0".encode()
    nobody = cast("NatsConnection", None)
    return Message("oneprotect.delivery.requested.acme.orders", "acme.orders", reply, b"", b"", nobody)


def request(tenant: str = "acme", *, number: int = 1, trace: str | None = None) -> DeliveryAttemptRequest:
    return DeliveryAttemptRequest(
        id=f"dlv_{number}",
        tenant=tenant,
        destination="orders",
        event_type="invoice.paid",
        requested_at=NOW - timedelta(seconds=3),
        content_type="application/json",
        body=b"{}",
        retry_state=RetryState(trace=trace),
        message=message(number),
    )


def ended(
    outcome: Outcome = Outcome.DELIVERED,
    code: Code = Code.HTTP_2XX,
    *,
    duration_ms: float = 30.0,
    replay: str | None = None,
) -> AttemptResult:
    return AttemptResult(
        delivery="dlv_1",
        destination="orders",
        event_type="invoice.paid",
        attempt=1,
        outcome=outcome,
        code=code,
        started_at=NOW,
        duration_ms=duration_ms,
        worker="w",
        replay=replay,
    )


def attempt(delivery: DeliveryAttemptRequest | None = None, *, resolved_s: float | None = 0.01) -> DeliveryAttempt:
    """One that began now."""
    made = DeliveryAttempt(delivery or request())
    made.started_s, made.started_at, made.resolved_s = NOW.timestamp(), NOW, resolved_s
    return made


class Readings:
    """Metrics after some attempts."""

    def __init__(self, *, tenants_max: int = 0, logged: Logged = "none") -> None:
        self.counters = MetricRegistry()
        self.observation = AttemptMetrics(self.counters, tenants_max=tenants_max, logged=logged)

    def value(self, metric: MetricDefinition, **labels: str) -> float:
        """Return the value of a series; KeyError when it does not exist."""
        return self.counters.snapshot().values[metric.name, tuple(labels.items())]

    def latency(self, metric: MetricDefinition, **labels: str) -> tuple[int, float]:
        """How often, and how long in all, rounded."""
        found = self.counters.snapshot().latencies[metric.name, tuple(labels.items())]
        return found.count, round(found.sum_s, 2)


def test_attempts_and_deliveries_are_counted() -> None:
    """Attempts by outcome and code, final outcomes of deliveries, and blocked and suppressed attempts."""
    told = Readings()
    for result in (
        ended(),
        ended(Outcome.RETRY_SCHEDULED, Code.HTTP_5XX),
        ended(Outcome.FAILED, Code.NET_BLOCKED),
        ended(Outcome.SUPPRESSED),
    ):
        told.observation.on_attempt(attempt(), result)

    assert told.value(definitions.ATTEMPTS, outcome="delivered", code="http.2xx") == 1
    assert told.value(definitions.ATTEMPTS, outcome="retry_scheduled", code="http.5xx") == 1
    assert told.value(definitions.DELIVERIES, outcome="delivered") == 1
    assert told.value(definitions.DELIVERIES, outcome="failed") == 1
    assert told.value(definitions.DELIVERIES, outcome="skipped") == 0
    assert told.value(definitions.BLOCKED) == 1
    assert told.value(definitions.SUPPRESSED) == 1


def test_latencies() -> None:
    """Since the event, since the message was stored, and of the POST; a replay does not count for the first."""
    told = Readings()
    told.observation.on_attempt(attempt(), ended())
    told.observation.on_attempt(attempt(), ended(replay="rpl-1"))
    told.observation.on_attempt(attempt(resolved_s=None), ended(Outcome.FAILED, Code.SECRET_MALFORMED))

    assert told.latency(definitions.LATENCY) == (1, 3.03)
    assert told.latency(definitions.QUEUE_WAIT) == (3, 6.0)
    assert told.latency(definitions.SEND, outcome="delivered") == (2, 0.04)
    assert told.latency(definitions.SEND, outcome="failed") == (0, 0.0)
    assert told.value(definitions.REPLAYED, outcome="delivered") == 1


def test_a_latency_is_never_negative() -> None:
    """An event from the future was delivered at once."""
    told = Readings()
    early = msgspec.structs.replace(request(), requested_at=NOW + timedelta(hours=1))
    told.observation.on_attempt(attempt(early), ended())

    assert told.latency(definitions.LATENCY) == (1, 0.0)


def test_tenant_labels_are_bounded() -> None:
    """There are no labels by default; with the setting, tenants beyond the bound share a label."""
    none, two = Readings(), Readings(tenants_max=2)
    for told in (none, two):
        for tenant in ("acme", "globex", "initech", "acme", "hooli"):
            told.observation.on_attempt(attempt(request(tenant)), ended())

    names = {value for _, labels in none.counters.snapshot().values for name, value in labels if name == "tenant"}
    assert names == set()
    assert none.value(definitions.DELIVERIES, outcome="delivered") == 5
    counts = [
        two.value(definitions.DELIVERIES, outcome="delivered", tenant=name) for name in ("acme", "globex", "other")
    ]
    assert counts == [2, 1, 2]


@pytest.mark.parametrize(
    ("logged", "records"), [("failed", ["failed"]), ("all", ["delivered", "failed"]), ("none", [])]
)
def test_attempts_are_logged_by_the_setting(logged: Logged, records: list[str]) -> None:
    """The setting logs failed, all or no attempts, with the decision and the trace."""
    with product_logging() as out:
        told = Readings(logged=logged)

        told.observation.on_attempt(attempt(request(trace=TRACE + "00")), ended())
        told.observation.on_attempt(attempt(request(trace=TRACE + "00")), ended(Outcome.FAILED, Code.HTTP_410))

    lines = [msgspec.json.decode(line) for line in out.getvalue().splitlines()]
    assert [line["outcome"] for line in lines] == records
    assert all(line["event"] == "attempt" for line in lines)
    assert {line["trace_id"] for line in lines} <= {TRACE[3:35]}
    assert {(line["tenant"], line["delivery"], line["duration_ms"]) for line in lines} <= {("acme", "dlv_1", 30.0)}


class Spans:
    """Records spans by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, name: str, parent: TraceContext, **_: Any) -> TraceContext:
        """See `consumers.observability.attempt_tracing.Spans`."""
        self.names.append(name)
        return parent


def tracer(spans: Spans, ratio: float = 0.0) -> tuple[AttemptTracer, list[float]]:
    """A tracer and its clock."""
    now = [0.0]
    sampling = TraceSampler(ExportSettings(traces=True, sampler="parentbased_traceidratio", ratio=ratio))
    return AttemptTracer(spans, sampling, slow_s=1.0, clock=lambda: now[0]), now


def test_spans_are_created_after_the_result_is_stored() -> None:
    """Attempts that were not sampled have no span."""
    spans = Spans()
    tracing, _ = tracer(spans)
    sampled, unsampled = request(number=1, trace=TRACE + "01"), request(number=2, trace=TRACE + "00")

    for delivery in (sampled, unsampled):
        tracing.on_attempt(attempt(delivery), ended())
    before = list(spans.names)
    for delivery in (sampled, unsampled, sampled):
        tracing.on_settled(delivery.message)

    assert before == []
    assert spans.names == ["deliver", "pull", "resolve secret", "POST", "publish result"]
    assert tracing.counts == {"sampled": 1, "unusual": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("result", "unusual"),
    [
        (ended(), 0),
        (ended(Outcome.SUPPRESSED), 0),
        (ended(duration_ms=1001.0), 1),
        (ended(Outcome.RETRY_SCHEDULED, Code.NET_TIMEOUT), 1),
        (ended(Outcome.FAILED, Code.HTTP_410), 1),
    ],
)
def test_failed_and_slow_attempts_are_traced(result: AttemptResult, unusual: int) -> None:
    """Even if they were not sampled."""
    tracing, _ = tracer(Spans())

    tracing.on_attempt(attempt(), result)

    assert tracing.counts["unusual"] == unusual


def test_traces_of_failures_are_bounded() -> None:
    """Each second has the same bound."""
    tracing, now = tracer(Spans())

    for second in (100.0, 101.0):
        now[0] = second
        for number in range(UNUSUAL_PER_S + 5):
            tracing.on_attempt(attempt(request(number=number)), ended(Outcome.FAILED, Code.HTTP_410))

    assert tracing.counts == {"sampled": 0, "unusual": 2 * UNUSUAL_PER_S, "dropped": 10}


def test_an_attempt_without_a_secret_has_no_post_span() -> None:
    """The span of the secret has the error."""
    spans = Spans()
    tracing, _ = tracer(spans, ratio=1.0)
    delivery = request()

    tracing.on_attempt(attempt(delivery, resolved_s=None), ended(Outcome.RETRY_SCHEDULED, Code.SECRET_DENIED))
    tracing.on_settled(delivery.message)

    assert spans.names == ["deliver", "pull", "resolve secret", "publish result"]
