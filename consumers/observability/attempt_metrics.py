"""Observation of attempts: all are counted, and some are logged and traced, by the settings."""

import collections
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Literal

import structlog

from consumers.delivery.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest
from consumers.observability.attempt_tracing import AttemptTracer
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from telemetry.metrics import definitions
from telemetry.metrics.registry import Labels, LatencyHistogram, MetricRegistry, MetricSample
from telemetry.otlp.trace_context import TraceContext

OTHER: Final = "other"
Logged = Literal["failed", "all", "none"]

_FINAL: Final = (Outcome.DELIVERED, Outcome.FAILED, Outcome.SKIPPED)
_NANOSECONDS: Final = 1_000_000_000
_PRESET: Final = (
    (Outcome.DELIVERED, Code.HTTP_2XX),
    (Outcome.FAILED, Code.HTTP_5XX),
    (Outcome.FAILED, Code.NET_BLOCKED),
    (Outcome.RETRY_SCHEDULED, Code.HTTP_5XX),
    (Outcome.RETRY_SCHEDULED, Code.SECRET_UNAVAILABLE),
    (Outcome.SUPPRESSED, Code.HTTP_2XX),
)
"""Counters that exist from the start: one that appears with its first event would show no increase."""
_LOGGED_FIELDS: Final = (
    "destination", "delivery", "event_type", "attempt", "outcome", "code", "http_status", "duration_ms",
    "retry_after_s", "next_attempt_at", "request_bytes", "response_bytes", "signed_with", "secret_version",
    "replay", "url_host", "worker",
)  # fmt: skip

_log = structlog.get_logger(__name__)


class _TenantMetrics:
    """The metrics of one tenant, or of all."""

    __slots__ = ("counts", "latency", "wait")

    def __init__(self, counters: MetricRegistry, labels: Labels) -> None:
        self.counts: collections.Counter[tuple[Outcome, Code]] = collections.Counter()
        self.latency: LatencyHistogram = counters.histogram(definitions.LATENCY, labels)
        self.wait: LatencyHistogram = counters.histogram(definitions.QUEUE_WAIT, labels)


class AttemptMetrics:
    """An observer that counts every attempt."""

    def __init__(
        self, counters: MetricRegistry, *, tenants_max: int, logged: Logged, tracer: AttemptTracer | None = None
    ) -> None:
        """Create an observer.

        Args:
            counters: Where the metrics go.
            tenants_max: Tenants that have a label of their own; the rest are `other`. 0 for no tenant labels.
            logged: The attempts to log: those that did not deliver, all, or none.
            tracer: An observer that traces attempts.
        """
        self._counters = counters
        self._tenants_max = tenants_max
        self._logs_failures = logged != "none"
        self._logs_all = logged == "all"
        self._tracer = tracer
        self._tenants: dict[str, _TenantMetrics] = {}
        self._replayed: collections.Counter[Outcome] = collections.Counter()
        self._sends = {
            outcome: counters.histogram(definitions.SEND, (("outcome", outcome.value),))
            for outcome in (Outcome.DELIVERED, Outcome.RETRY_SCHEDULED, Outcome.FAILED)
        }
        self._all = None if tenants_max else self._tenant("")
        if self._all is not None:
            self._all.counts.update(dict.fromkeys(_PRESET, 0))
        counters.add_source(self._readings)

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """See `consumers.delivery.handler.AttemptObserver`."""
        outcome, delivery = result.outcome, attempt.delivery
        tenant = self._all or self._tenants.get(delivery.tenant) or self._tenant(delivery.tenant)
        tenant.counts[outcome, result.code] += 1
        if outcome is not Outcome.SUPPRESSED:
            self._time(attempt, result, tenant)
        if self._logs_all or (self._logs_failures and outcome is not Outcome.DELIVERED):
            self._log(delivery, result)
        if self._tracer is not None:
            self._tracer.on_attempt(attempt, result)

    def _time(self, attempt: DeliveryAttempt, result: AttemptResult, tenant: _TenantMetrics) -> None:
        """Observe three latencies, each as `LatencyHistogram.observe` does, but without a call: this runs often."""
        delivery, duration_s = attempt.delivery, result.duration_ms / 1000
        waited_s = attempt.started_s - delivery.message.stored_ns / _NANOSECONDS
        if waited_s < 0:  # the server's clock differs
            waited_s = 0.0
        wait = tenant.wait
        wait.buckets[bisect_left(wait.bounds_s, waited_s)] += 1
        wait.sum_s += waited_s
        if attempt.resolved_s is not None:
            sent_s, send = duration_s - attempt.resolved_s, self._sends[result.outcome]
            send.buckets[bisect_left(send.bounds_s, sent_s)] += 1
            send.sum_s += sent_s
        if result.replay is not None:
            self._replayed[result.outcome] += 1
        elif result.outcome is Outcome.DELIVERED:
            since_s, latency = attempt.started_s + duration_s - delivery.requested_at.timestamp(), tenant.latency
            if since_s < 0:  # the producer's clock differs
                since_s = 0.0
            latency.buckets[bisect_left(latency.bounds_s, since_s)] += 1
            latency.sum_s += since_s

    def _tenant(self, name: str) -> _TenantMetrics:
        """Return the metrics of a tenant, created when they are first needed."""
        if not self._tenants_max:
            name = ""
        elif len(self._tenants) >= self._tenants_max:
            name = OTHER
        found = self._tenants.get(name)
        if found is None:
            labels = (("tenant", name),) if name else ()
            found = self._tenants[name] = _TenantMetrics(self._counters, labels)
        return found

    def _log(self, delivery: DeliveryAttemptRequest, result: AttemptResult) -> None:
        fields = {name: getattr(result, name) for name in _LOGGED_FIELDS}
        fields |= {"outcome": result.outcome.value, "code": result.code.value}
        parent = TraceContext.read(delivery.retry_state.trace)
        trace_id = None if parent is None else f"{parent.trace_id:032x}"
        _log.info("attempt", tenant=delivery.tenant, **fields, trace_id=trace_id)

    def _readings(self) -> Iterator[MetricSample]:
        blocked = suppressed = 0
        for name, tenant in self._tenants.items():
            labels: Labels = (("tenant", name),) if name else ()
            for (outcome, code), count in tenant.counts.items():
                yield definitions.ATTEMPTS, (("outcome", outcome), ("code", code), *labels), count
                blocked += count if code is Code.NET_BLOCKED else 0
                suppressed += count if outcome is Outcome.SUPPRESSED else 0
            for final in _FINAL:
                count = sum(count for (outcome, _), count in tenant.counts.items() if outcome is final)
                yield definitions.DELIVERIES, (("outcome", final.value), *labels), count
        yield definitions.BLOCKED, (), blocked
        yield definitions.SUPPRESSED, (), suppressed
        for outcome, count in self._replayed.items():
            yield definitions.REPLAYED, (("outcome", outcome),), count
