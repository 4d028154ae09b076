"""The span of a request to the API, between the caller's span and the spans of the deliveries."""

import os
import time
from typing import TYPE_CHECKING, Final

from telemetry.otlp.trace_context import Attributes, TraceContext, TraceSampler

if TYPE_CHECKING:  # its module imports OpenTelemetry
    from telemetry.otlp.spans import SpanFactory


class RequestSpan:
    """A span that begins now. `header`: the `traceparent` that names it. The sampling decision is made once, here."""

    def __init__(self, spans: "SpanFactory", sampling: TraceSampler, caller: str | None) -> None:
        """Begin a span. `caller`: the `traceparent` of the request."""
        key = os.urandom(8).hex()
        self._spans = spans
        self._id = spans.new_id()
        self._is_sampled = sampling.samples(caller, key)
        self._parent = TraceContext.read(caller) or TraceContext.of_key(key)
        self._start_ns = time.time_ns()
        self.header: Final = f"00-{self._parent.trace_id:032x}-{self._id:016x}-{self._is_sampled:02x}"

    def end(self, name: str, attributes: Attributes, status: int) -> None:
        """End the span with the status of the response."""
        if self._is_sampled:
            self._spans.add(
                name,
                self._parent,
                kind="server",
                start_ns=self._start_ns,
                end_ns=time.time_ns(),
                attributes=attributes,
                error="http.5xx" if status >= 500 else None,
                span_id=self._id,
            )
