"""What is told of each attempt: counted always, logged and traced where that is asked for."""

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

_ENDED: Final = (Outcome.DELIVERED, Outcome.FAILED, Outcome.SKIPPED)
_NANOSECONDS: Final = 1_000_000_000
_TOLD_FROM_THE_START: Final = (
    (Outcome.DELIVERED, Code.HTTP_2XX),
    (Outcome.FAILED, Code.HTTP_5XX),
    (Outcome.FAILED, Code.NET_BLOCKED),
    (Outcome.RETRY_SCHEDULED, Code.HTTP_5XX),
    (Outcome.RETRY_SCHEDULED, Code.SECRET_UNAVAILABLE),
    (Outcome.SUPPRESSED, Code.HTTP_2XX),
)
"""A counter that appears with its first event shows no increase: these are there before it."""

_log = structlog.get_logger(__name__)


class _TenantMetrics:
    """The figures of one tenant, or of all."""

    __slots__ = ("counts", "latency", "wait")

    def __init__(self, counters: MetricRegistry, labels: Labels) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.latency: LatencyHistogram = counters.histogram(definitions.LATENCY, labels)
        self.wait: LatencyHistogram = counters.histogram(definitions.WAIT, labels)


class AttemptMetrics:
    """Hears of every attempt. `tenants_max`: so many tenants are told apart, and the rest is `other`."""

    def __init__(
        self, counters: MetricRegistry, *, tenants_max: int, logged: Logged, tracer: AttemptTracer | None = None
    ) -> None:
        self._counters = counters
        self._tenants_max = tenants_max
        self._logs_failures = logged != "none"
        self._logs_all = logged == "all"
        self._tracer = tracer
        self._tenants: dict[str, _TenantMetrics] = {}
        self._replayed: dict[str, int] = {}
        self._sends = {
            outcome: counters.histogram(definitions.SEND, (("outcome", outcome.value),))
            for outcome in (Outcome.DELIVERED, Outcome.RETRY_SCHEDULED, Outcome.FAILED)
        }
        self._all = None if tenants_max else self._tenant("")
        if self._all is not None:
            self._all.counts.update(dict.fromkeys(_TOLD_FROM_THE_START, 0))
        counters.watch(self._readings)

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """See `consumers.delivery.handler.AttemptObserver`."""
        outcome, delivery = result.outcome, attempt.delivery
        tenant = self._all or self._tenants.get(delivery.tenant) or self._tenant(delivery.tenant)
        tenant.counts[outcome, result.code] += 1
        if outcome is not Outcome.SUPPRESSED:
            self._time(attempt, result, tenant)
        if outcome is Outcome.DELIVERED:
            if self._logs_all:
                self._log(delivery, result)
        elif self._logs_failures:
            self._log(delivery, result)
        if self._tracer is not None:
            self._tracer.on_attempt(attempt, result)

    def _time(self, attempt: DeliveryAttempt, result: AttemptResult, tenant: _TenantMetrics) -> None:
        """How long it took: three times what `LatencyHistogram.observe` does, by hand, as this is done for every delivery."""
        delivery, taken_s = attempt.delivery, result.duration_ms / 1000
        waited_s = attempt.started_s - delivery.message.stored_ns / _NANOSECONDS
        if waited_s < 0:  # the server's clock is another one
            waited_s = 0.0
        wait = tenant.wait
        wait.buckets[bisect_left(wait.bounds_s, waited_s)] += 1
        wait.sum_s += waited_s
        if attempt.resolved_s is not None:
            sent_s, send = taken_s - attempt.resolved_s, self._sends[result.outcome]
            send.buckets[bisect_left(send.bounds_s, sent_s)] += 1
            send.sum_s += sent_s
        if result.replay is not None:
            self._replayed[result.outcome] = self._replayed.get(result.outcome, 0) + 1
        elif result.outcome is Outcome.DELIVERED:
            since_s, latency = attempt.started_s + taken_s - delivery.requested_at.timestamp(), tenant.latency
            if since_s < 0:  # so is the producer's
                since_s = 0.0
            latency.buckets[bisect_left(latency.bounds_s, since_s)] += 1
            latency.sum_s += since_s

    def _tenant(self, name: str) -> _TenantMetrics:
        """The figures to count with, made when they are first needed."""
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
        parent = TraceContext.read(delivery.progress.trace)
        _log.info(
            "attempt",
            tenant=delivery.tenant,
            destination=result.destination,
            delivery=result.delivery,
            event_type=result.event_type,
            attempt=result.attempt,
            outcome=result.outcome.value,
            code=result.code.value,
            http_status=result.http_status,
            duration_ms=result.duration_ms,
            retry_after_s=result.retry_after_s,
            next_attempt_at=result.next_attempt_at,
            request_bytes=result.request_bytes,
            response_bytes=result.response_bytes,
            signed_with=result.signed_with,
            secret_version=result.secret_version,
            replay=result.replay,
            url_host=result.url_host,
            worker=result.worker,
            trace_id=None if parent is None else f"{parent.trace_id:032x}",
        )

    def _readings(self) -> Iterator[MetricSample]:
        blocked = suppressed = 0
        for name, tenant in self._tenants.items():
            of_tenant: Labels = (("tenant", name),) if name else ()
            ended = {outcome.value: 0 for outcome in _ENDED}
            for (outcome, code), count in tenant.counts.items():
                yield definitions.ATTEMPTS, (("outcome", outcome), ("code", code), *of_tenant), count
                blocked += count if code == Code.NET_BLOCKED else 0
                suppressed += count if outcome == Outcome.SUPPRESSED else 0
                if outcome in ended:
                    ended[outcome] += count
            for outcome, count in ended.items():
                yield definitions.DELIVERIES, (("outcome", outcome), *of_tenant), count
        yield definitions.BLOCKED, (), blocked
        yield definitions.SUPPRESSED, (), suppressed
        for outcome, count in self._replayed.items():
            yield definitions.REPLAYED, (("outcome", outcome),), count
