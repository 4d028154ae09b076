"""Spans made after the fact, with the times that were taken anyway: nothing is kept open while the work is done.

There is no exception, event or status text in them: a failure is named by its code.
"""

import random
from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.otlp.span_encoder import span_bytes
from telemetry.otlp.trace_context import Attributes, Kind, TraceContext

_SAMPLED: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
"""All that the SDK's batch processor asks of a span is whether it is sampled."""


class EncodedSpan(ReadableSpan):
    """A span as the SDK's processor takes it, written already."""

    def __init__(self, body: bytes) -> None:
        # What the SDK keeps of a span is in `body`: its own fields stay empty, which spares a microsecond.
        self._context = _SAMPLED
        self.body: Final = body


class SpanFactory:
    """Makes spans, and gives each to `on_end`."""

    __slots__ = ("_on_end",)

    def __init__(self, on_end: Callable[[ReadableSpan], None]) -> None:
        self._on_end = on_end

    def new_id(self) -> int:
        """An id for a span that is added later."""
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
        """A span below `parent`, from and to unix nanoseconds; returns it as the parent of others.

        `error`: the code of what went wrong, if anything did.
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
