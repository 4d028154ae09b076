"""Spans created after the work has ended, from recorded times.

They contain no exception, event or status text: a failure is a code.
"""

import random
from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.otlp.span_encoder import span_bytes
from telemetry.otlp.trace_context import Attributes, Kind, TraceContext

_SAMPLED: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
"""The SDK's batch processor reads only the sampling flag of a span."""


class EncodedSpan(ReadableSpan):
    """An encoded span, in the type of the SDK's processor."""

    def __init__(self, body: bytes) -> None:
        # The span is in `body`; the other fields of the SDK's class stay unset.
        self._context = _SAMPLED
        self.body: Final = body


class SpanFactory:
    """Creates spans and passes each to `on_end`."""

    __slots__ = ("_on_end",)

    def __init__(self, on_end: Callable[[ReadableSpan], None]) -> None:
        self._on_end = on_end

    def new_id(self) -> int:
        """Return an id for a span that is added later."""
        return random.getrandbits(64) or 1

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
        span_id: int | None = None,
    ) -> TraceContext:
        """Add a span below `parent`, and return its context for child spans.

        Times are in unix nanoseconds. `error` is the code of a failure.
        """
        span_id = span_id or self.new_id()
        body = span_bytes(
            name,
            parent,
            span_id,
            kind=kind,
            start_ns=start_ns,
            end_ns=end_ns,
            attributes=attributes,
            error=error,
        )
        self._on_end(EncodedSpan(body))
        return TraceContext(parent.trace_id, span_id, sampled=True, is_local=True)
