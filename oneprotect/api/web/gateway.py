"""The outermost ASGI application: responds before NATS is connected, and counts and logs every request."""

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneprotect.api.web.problems import problem_response, unavailable
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricRegistry
from telemetry.ops_server import OpsPages

METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})
EVENT_STREAM: Final = b"text/event-stream"
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_log = structlog.get_logger(__name__)


class StartupGateway:
    """Forwards requests to the application once there is one. Until then the process is alive, and not ready."""

    def __init__(self, counters: MetricRegistry, ops: OpsPages) -> None:
        self._counters = counters
        self._ops = ops
        self._app: ASGIApp = self._respond_before_start

    def open(self, app: ASGIApp) -> None:
        """Forward requests to `app` from now on."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        started, ended, status = time.perf_counter(), 0.0, 500

        async def send_and_note(event: Message) -> None:
            nonlocal ended, status
            if event["type"] == "http.response.start":
                status = event["status"]
                if any(value.startswith(EVENT_STREAM) for _, value in event["headers"]):
                    ended = time.perf_counter()  # the duration of an endless response says nothing
            await send(event)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._record(scope, status, (ended or time.perf_counter()) - started)

    async def _respond_before_start(self, scope: Scope, receive: Receive, send: Send) -> None:
        respond = self._ops if scope["path"] in PROBES else problem_response(unavailable())
        await respond(scope, receive, send)

    def _record(self, scope: Scope, status: int, duration_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = scope.get("path_template") or "none"
        self._counters.add(definitions.HTTP_REQUESTS, (("method", method), ("route", route), ("status", str(status))))
        self._counters.observe(definitions.HTTP_DURATION, duration_s, (("route", route),))
        log = _log.warning if status >= 500 and route not in PROBES else _log.debug
        log("api.answered", method=method, route=route, status=status, ms=round(duration_s * 1000, 2))
