"""Spans of requests to the API, between the caller's span and the spans of the deliveries.

The application sees a `traceparent` header that names this span. The sampling decision is therefore made once, here.
"""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneprotect.api.web.gateway import METHODS, PROBES
from telemetry.otlp.trace_context import HEADER, TraceContext, TraceSampler

if TYPE_CHECKING:  # its module imports OpenTelemetry
    from telemetry.otlp.spans import SpanFactory

_NAME: Final = HEADER.encode()


class TracingMiddleware:
    """An ASGI application that wraps another one."""

    def __init__(self, app: ASGIApp, spans: "SpanFactory", sampling: TraceSampler) -> None:
        self._app = app
        self._spans = spans
        self._sampling = sampling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        caller, key, span_id = _trace_parent(scope["headers"]), os.urandom(8).hex(), self._spans.new_id()
        sampled = self._sampling.samples(caller, key)
        parent = TraceContext.read(caller) or TraceContext.of_key(key)
        status, start_ns = 500, time.time_ns()

        async def send_and_note(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        own = f"00-{parent.trace_id:032x}-{span_id:016x}-{sampled:02x}"
        others = [header for header in scope["headers"] if header[0] != _NAME]
        scope = {**scope, "headers": [*others, (_NAME, own.encode())]}
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if sampled:
                self._add_span(scope, status, parent, span_id, start_ns)

    def _add_span(self, scope: Scope, status: int, parent: TraceContext, span_id: int, start_ns: int) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = str(scope.get("path_template") or "none")
        self._spans.add(
            f"{method} {route}",
            parent,
            kind="server",
            start_ns=start_ns,
            end_ns=time.time_ns(),
            attributes={"http.request.method": method, "http.route": route, "http.response.status_code": status},
            error="http.5xx" if status >= 500 else None,
            span_id=span_id,
        )


def _trace_parent(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name == _NAME]
    return values[0].decode("latin-1") if len(values) == 1 else None
