"""Traces of attempts: from the moment a stream had the request, over pull, secret and POST, to the stored result.

Whether an attempt is traced is known before it begins, by its `traceparent` or by its delivery's id. Those that end
badly or take long are traced as well, whatever the flag says, as they are what somebody will look for; but only so
many a second, so that an outage does not cost twice. The spans are made when all is over.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from consumers.delivery.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest
from messaging.pull_consumer import Message
from schemas.codes import Outcome
from schemas.events import AttemptResult
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample
from telemetry.otlp.trace_context import Attributes, Kind, TraceContext, TraceSampler

UNUSUAL_PER_S: Final = 10
"""Failed or slow attempts that are traced without having been sampled."""
MAX_OPEN: Final = 10_000
"""Traced attempts whose result is not stored yet. Beyond that, NATS is away, and traces are the least of it."""

_NANOSECONDS: Final = 1_000_000_000
_WELL: Final = (Outcome.DELIVERED, Outcome.SUPPRESSED)


class SpanSink(Protocol):
    """Where finished spans go; `telemetry.otlp.spans.Spans` exports them."""

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
        """A span below `parent`; returns it as the parent of others. `error`: the code of what went wrong."""
        ...


class _OpenSpan(msgspec.Struct, frozen=True, gc=False):
    """An attempt that is traced, until its result is stored."""

    delivery: DeliveryAttemptRequest
    result: AttemptResult
    parent: TraceContext
    began_ns: int
    resolved_ns: int | None
    ended_ns: int


class AttemptTracer:
    """Hears of every attempt, and makes spans of some. `slow_s`: what counts as slow."""

    def __init__(
        self, spans: SpanSink, sampling: TraceSampler, *, slow_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spans = spans
        self._sampling = sampling
        self._slow_ms = slow_s * 1000
        self._clock = clock
        self._open: dict[str, _OpenSpan] = {}
        self._second = 0
        self._unusual = 0
        self.counts = {"sampled": 0, "unusual": 0, "dropped": 0}
        """Attempts by what was decided; those that nobody wanted traced are not counted."""

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """See `consumers.delivery.handler.AttemptObserver`."""
        delivery = attempt.delivery
        # The request's id, put together here: this is done for every delivery.
        if self._sampling.samples(delivery.progress.trace, f"{delivery.message.lane}.{delivery.id}"):
            self._begin("sampled", attempt, result)
        elif result.outcome not in _WELL or result.duration_ms > self._slow_ms:
            self._begin("unusual" if self._has_room() else "dropped", attempt, result)

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._unusual = second, 0
        self._unusual += 1
        return self._unusual <= UNUSUAL_PER_S

    def _begin(self, decision: str, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        if len(self._open) >= MAX_OPEN:
            decision = "dropped"
        self.counts[decision] += 1
        if decision == "dropped":
            return
        delivery = attempt.delivery
        began_ns = int(attempt.started_s * _NANOSECONDS)
        resolved_ns = None if attempt.resolved_s is None else began_ns + int(attempt.resolved_s * _NANOSECONDS)
        self._open[delivery.message.identity] = _OpenSpan(
            delivery,
            result,
            TraceContext.read(delivery.progress.trace) or TraceContext.of_key(delivery.request_id),
            began_ns,
            resolved_ns,
            began_ns + int(attempt.duration_s * _NANOSECONDS),
        )

    def readings(self) -> Iterator[MetricSample]:
        """A source for `MetricRegistry.watch`."""
        for decision, count in self.counts.items():
            yield definitions.TRACES, (("decision", decision),), count

    def on_settled(self, message: Message) -> None:
        """All that an attempt asked for is stored: its trace is complete."""
        if self._open and (attempt := self._open.pop(message.identity, None)) is not None:
            self._tell(attempt, time.time_ns())

    def _tell(self, attempt: _OpenSpan, stored_ns: int) -> None:
        result, stored_at_ns = attempt.result, attempt.delivery.message.stored_ns
        error = None if result.outcome in _WELL else result.code.value
        above = self._spans.add(
            "deliver",
            attempt.parent,
            kind="consumer",
            start_ns=min(stored_at_ns, attempt.began_ns),
            end_ns=stored_ns,
            attributes=_about(attempt.delivery, result),
            error=error,
        )
        self._spans.add(
            "pull", above, start_ns=min(stored_at_ns, attempt.began_ns), end_ns=attempt.began_ns, attributes={}
        )
        self._work(attempt, above)
        self._spans.add(
            "publish result", above, kind="producer", start_ns=attempt.ended_ns, end_ns=stored_ns, attributes=_PUBLISH
        )

    def _work(self, attempt: _OpenSpan, above: TraceContext) -> None:
        """The secret, and the POST if it came to that."""
        result, resolved_ns = attempt.result, attempt.resolved_ns
        if resolved_ns is not None:
            self._spans.add("resolve secret", above, start_ns=attempt.began_ns, end_ns=resolved_ns, attributes={})
            error = None if result.outcome in _WELL else result.code.value
            self._spans.add(
                "POST",
                above,
                kind="client",
                start_ns=resolved_ns,
                end_ns=attempt.ended_ns,
                attributes=_exchange(result),
                error=error,
            )
        elif result.code.startswith("secret."):
            self._spans.add(
                "resolve secret",
                above,
                start_ns=attempt.began_ns,
                end_ns=attempt.ended_ns,
                attributes={},
                error=result.code.value,
            )


# An attribute costs 1.5 microseconds when it is exported: there is none that another span of the trace has already.
_PUBLISH: Final = {"messaging.operation.type": "send"}


def _about(delivery: DeliveryAttemptRequest, result: AttemptResult) -> Attributes:
    about: dict[str, str | int] = {
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
    if result.replay is not None:
        about["oneprotect.replay"] = result.replay
    return about


def _exchange(result: AttemptResult) -> Attributes:
    exchange: dict[str, str | int] = {
        "http.request.method": "POST",
        "server.address": result.url_host or "",
    }
    if result.http_status is not None:
        exchange["http.response.status_code"] = result.http_status
    return exchange
