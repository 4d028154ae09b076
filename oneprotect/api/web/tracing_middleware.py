"""Requests to the API as spans: below the caller's, and above what comes of them.

The `traceparent` that goes on to the application, and from there with the delivery, names this span. So the decision
whether a delivery is traced is made once: where it comes in.
"""

import os
import time
from collections.abc import Sequence
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneprotect.api.web.gateway import METHODS, OPERATING
from telemetry.otlp.trace_context import HEADER, Attributes, Kind, TraceContext, TraceSampler

_NAME: Final = HEADER.encode()


class RequestSpanSink(Protocol):
    """Where finished spans go; `telemetry.otlp.spans.Spans` exports them."""

    def new_id(self) -> int:
        """An id for a span that is added later."""
        ...

    def add(
        self,
        name: str,
        parent: TraceContext,
        *,
        kind: Kind,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        error: str | None,
        span_id: int,
    ) -> TraceContext:
        """A span with that id below `parent`. `error`: the code of what went wrong."""
        ...


class TracingMiddleware:
    """An ASGI application before another one."""

    def __init__(self, app: ASGIApp, spans: RequestSpanSink, sampling: TraceSampler) -> None:
        self._app = app
        self._spans = spans
        self._sampling = sampling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in OPERATING:
            await self._app(scope, receive, send)
            return
        caller, key, span_id = _caller(scope["headers"]), os.urandom(8).hex(), self._spans.new_id()
        sampled = self._sampling.samples(caller, key)
        parent = TraceContext.read(caller) or TraceContext.of_key(key)
        status, start_ns = 500, time.time_ns()

        async def sent(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        below = f"00-{parent.trace_id:032x}-{span_id:016x}-{sampled:02x}"
        scope = {**scope, "headers": [*_others(scope["headers"]), (_NAME, below.encode())]}
        try:
            await self._app(scope, receive, sent)
        finally:
            if sampled:
                self._add(scope, status, parent, span_id, start_ns)

    def _add(self, scope: Scope, status: int, parent: TraceContext, span_id: int, start_ns: int) -> None:
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


def _caller(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name == _NAME]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _others(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != _NAME]
