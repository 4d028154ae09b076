"""The operations port: `/healthz`, `/readyz` and `/metrics` over plain HTTP.

The event loop that delivers serves the port, so a reply to `/healthz` shows that this loop runs, and nothing else.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, MutableMapping
from functools import partial
from typing import Any, Final, Protocol, cast

from telemetry.metrics.prometheus_text import CONTENT_TYPE, render
from telemetry.metrics.registry import MetricSnapshot
from telemetry.readiness import ReadinessState

STOP_S: Final = 2
MAX_CONNECTIONS: Final = 64
"""Open connections. A further one replaces the connection that has waited longest for a request."""

_TEXT: Final = "text/plain; charset=utf-8"
_Answer = tuple[int, str, bytes]
_Event = MutableMapping[str, Any]


class MetricSource(Protocol):
    """A source of the metrics at `/metrics`."""

    def snapshot(self) -> MetricSnapshot:
        """Return the current metrics."""
        ...


class OpsPages:
    """The operations pages as an ASGI application (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    def __init__(self, metrics: MetricSource, readiness: ReadinessState) -> None:
        self._metrics = metrics
        self._readiness = readiness

    async def __call__(
        self, scope: _Event, _receive: Callable[[], Awaitable[_Event]], send: Callable[[_Event], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        status, content_type, body = self.answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def answer(self, method: str, path: str) -> _Answer:
        """Return status, content type and body."""
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET and HEAD\n"
        match path:
            case "/healthz":
                return 200, _TEXT, b"alive\n"
            case "/readyz":
                status = self._readiness.explain()
                return 200 if status in ("ready", "draining") else 503, _TEXT, status.encode() + b"\n"
            case "/metrics":
                return 200, CONTENT_TYPE, render(self._metrics.snapshot())
            case _:
                return 404, _TEXT, b"not found; use /healthz, /readyz or /metrics\n"


@contextlib.asynccontextmanager
async def serving(pages: OpsPages, *, host: str, port: int) -> AsyncGenerator[int]:
    """Serve on `host` and `port` (0: any free port), and yield the port. Raises `OSError` when the port is taken."""
    import uvicorn  # only processes with a port need it

    from telemetry.bounded_http import BoundedProtocol, ConnectionLimits

    class Server(uvicorn.Server):
        """A server that leaves signals to the process."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    connections = ConnectionLimits(total=MAX_CONNECTIONS, per_client=MAX_CONNECTIONS)
    config = uvicorn.Config(
        pages,
        http=cast("Any", partial(BoundedProtocol, limits=connections)),  # uvicorn only calls it
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_S,
    )
    listening = _listening(host, port)
    server = Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]), name="ops")
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        await running
        connections.reset_all()
        listening.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)
