"""Traces of attempts: from the message in its stream, over pull, secret and POST, to the stored result.

An attempt is sampled by its `traceparent` or by its delivery's id. Failed and slow attempts are traced as well, up to a
number per second, so that an outage does not cost twice. The spans are made when everything is over.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from consumers.delivery.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest
from messaging.message import Message
from schemas.codes import Outcome
from schemas.events import AttemptResult
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample
from telemetry.otlp.trace_context import Attributes, Kind, TraceContext, TraceSampler

UNUSUAL_PER_S: Final = 10
"""Failed or slow attempts a second that are traced without having been sampled."""
MAX_OPEN: Final = 10_000
"""Traced attempts whose result is not stored yet. NATS is unavailable when there are more."""

_NANOSECONDS: Final = 1_000_000_000
_SUCCESSFUL: Final = (Outcome.DELIVERED, Outcome.SUPPRESSED)
_PUBLISH: Final = {"messaging.operation.type": "send"}


class SpanSink(Protocol):
    """Accepts finished spans, as `telemetry.otlp.spans.Spans` does."""

    def add(
        self,
        name: str,
        parent: TraceContext,
        *,
        kind: Kind = "internal",
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        error: str | None = None,
    ) -> TraceContext:
        """Add a span below `parent`, and return it as the parent of others. `error`: the code of a failure."""
        ...


class _OpenSpan(msgspec.Struct, frozen=True, gc=False):
    """A traced attempt whose result is not stored yet."""

    attempt: DeliveryAttempt
    result: AttemptResult
    parent: TraceContext


class AttemptTracer:
    """An observer that makes spans of some attempts."""

    def __init__(
        self, spans: SpanSink, sampling: TraceSampler, *, slow_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a tracer. An attempt that takes longer than `slow_s` is slow."""
        self._spans = spans
        self._sampling = sampling
        self._slow_ms = slow_s * 1000
        self._clock = clock
        self._open: dict[str, _OpenSpan] = {}
        self._second = 0
        self._unusual_in_second = 0
        self.counts = {"sampled": 0, "unusual": 0, "dropped": 0}
        """Attempts by the decision to trace them; ordinary ones that were not sampled are not counted."""

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """See `consumers.delivery.handler.AttemptObserver`."""
        delivery = attempt.delivery
        # The request's id, without the call: this runs for every delivery.
        if self._sampling.samples(delivery.retry_state.trace, f"{delivery.message.lane}.{delivery.id}"):
            self._open_span("sampled", attempt, result)
        elif result.outcome not in _SUCCESSFUL or result.duration_ms > self._slow_ms:
            self._open_span("unusual" if self._may_trace_unusual() else "dropped", attempt, result)

    def _may_trace_unusual(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._unusual_in_second = second, 0
        self._unusual_in_second += 1
        return self._unusual_in_second <= UNUSUAL_PER_S

    def _open_span(self, decision: str, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        if len(self._open) >= MAX_OPEN:
            decision = "dropped"
        self.counts[decision] += 1
        if decision == "dropped":
            return
        delivery = attempt.delivery
        parent = TraceContext.read(delivery.retry_state.trace) or TraceContext.of_key(delivery.request_id)
        self._open[delivery.message.identity] = _OpenSpan(attempt, result, parent)

    def readings(self) -> Iterator[MetricSample]:
        """Yield the counts, as a source for `MetricRegistry.add_source`."""
        for decision, count in self.counts.items():
            yield definitions.TRACES, (("decision", decision),), count

    def on_settled(self, message: Message) -> None:
        """Complete the trace of an attempt whose publications are stored."""
        if self._open and (span := self._open.pop(message.identity, None)) is not None:
            self._export(span, time.time_ns())

    def _export(self, span: _OpenSpan, stored_ns: int) -> None:
        add, attempt, result = self._spans.add, span.attempt, span.result
        error = None if result.outcome in _SUCCESSFUL else result.code.value
        started_ns = int(attempt.started_s * _NANOSECONDS)
        ended_ns = started_ns + int(attempt.duration_s * _NANOSECONDS)
        pulled_ns = min(attempt.delivery.message.stored_ns, started_ns)
        about = _describe_attempt(attempt.delivery, result)
        parent = add(
            "deliver", span.parent, kind="consumer", start_ns=pulled_ns, end_ns=stored_ns, attributes=about, error=error
        )
        add("pull", parent, start_ns=pulled_ns, end_ns=started_ns, attributes={})
        if attempt.resolved_s is not None:
            resolved_ns = started_ns + int(attempt.resolved_s * _NANOSECONDS)
            add("resolve secret", parent, start_ns=started_ns, end_ns=resolved_ns, attributes={})
            about = _describe_request(result)
            add("POST", parent, kind="client", start_ns=resolved_ns, end_ns=ended_ns, attributes=about, error=error)
        elif result.code.startswith("secret."):
            add("resolve secret", parent, start_ns=started_ns, end_ns=ended_ns, attributes={}, error=error)
        add("publish result", parent, kind="producer", start_ns=ended_ns, end_ns=stored_ns, attributes=_PUBLISH)


# Attributes are costly to export: no span repeats one of another span of the trace.


def _describe_attempt(delivery: DeliveryAttemptRequest, result: AttemptResult) -> Attributes:
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.message.id": delivery.id,
        "oneprotect.tenant": delivery.tenant,
        "oneprotect.destination": delivery.destination,
        "oneprotect.event_type": delivery.event_type,
        "oneprotect.attempt": result.attempt,
        "oneprotect.outcome": result.outcome.value,
        "oneprotect.code": result.code.value,
    }
    return attributes if result.replay is None else attributes | {"oneprotect.replay": result.replay}


def _describe_request(result: AttemptResult) -> Attributes:
    attributes: dict[str, str | int] = {"http.request.method": "POST", "server.address": result.url_host or ""}
    status = result.http_status
    return attributes if status is None else attributes | {"http.response.status_code": status}
