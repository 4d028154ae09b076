"""Spans of requests to the API, between the caller's span and the spans of the deliveries.

The application sees a `traceparent` header that names this span. The sampling decision is therefore made once, here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneprotect.api.web.gateway import METHODS, PROBES
from oneprotect.api.web.request_span import RequestSpan
from telemetry.otlp.trace_context import HEADER, TraceSampler

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
        span, status = RequestSpan(self._spans, self._sampling, _trace_parent(scope["headers"])), 500

        async def send_and_note(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        others = [header for header in scope["headers"] if header[0] != _NAME]
        scope = {**scope, "headers": [*others, (_NAME, span.header.encode())]}
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = str(scope.get("path_template") or "none")
            named = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            span.end(f"{method} {route}", named, status)


def _trace_parent(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name == _NAME]
    return values[0].decode("latin-1") if len(values) == 1 else None
