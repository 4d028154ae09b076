"""What stands before the application: it answers from the first moment on, counts, and logs.

The process listens before NATS is there. Until the application is, it says that it lives, and that it is not ready.
"""

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneprotect.api.web.problems import problem_response, unavailable
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricRegistry
from telemetry.ops_server import OpsPages

METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
EVENTS: Final = b"text/event-stream"
OPERATING: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_log = structlog.get_logger(__name__)


class StartupGateway:
    """An ASGI application that hands over to another one as soon as there is one."""

    def __init__(self, counters: MetricRegistry, ops: OpsPages) -> None:
        self._counters = counters
        self._ops = ops
        self._app: ASGIApp | None = None

    def open(self, app: ASGIApp) -> None:
        """From now on `app` answers."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began, ended, status = time.perf_counter(), 0.0, 500

        async def sent(event: Message) -> None:
            nonlocal ended, status
            if event["type"] == "http.response.start":
                status = event["status"]
                if any(value.startswith(EVENTS) for _, value in event["headers"]):
                    ended = time.perf_counter()  # its answer has no end of its own: that it has begun is what counts
            await send(event)

        try:
            await (self._app or self._not_yet)(scope, receive, sent)
        finally:
            self._note(scope, status, (ended or time.perf_counter()) - began)

    async def _not_yet(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPERATING:
            await self._ops(scope, receive, send)
            return
        await problem_response(unavailable())(scope, receive, send)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = scope.get("path_template") or "none"
        self._counters.add(definitions.HTTP_REQUESTS, (("method", method), ("route", route), ("status", str(status))))
        self._counters.observe(definitions.HTTP_DURATION, took_s, (("route", route),))
        log = _log.warning if status >= 500 and route not in OPERATING else _log.debug
        log("api.answered", method=method, route=route, status=status, ms=round(took_s * 1000, 2))
