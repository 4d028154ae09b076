"""The HTTP/1.1 server: uvicorn with bounded connections. Malformed HTTP is answered with a problem document, too."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from oneprotect.api.web.problems import MEDIA_TYPE, Problem
from telemetry.bounded_http import KEEP_ALIVE_S, BoundedProtocol, ConnectionLimits

DRAIN_TIMEOUT_S: Final = 20
SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the kernel keeps for a client that reads slowly (Linux doubles it). By itself it would grow to 4 MB for each."""


class ApiProtocol(BoundedProtocol):
    """A connection that answers bad requests with problem documents."""

    def refusal(self, status: int, kind: str, detail: str) -> tuple[str, bytes]:
        """Return media type and body of the response to a bad request."""
        return MEDIA_TYPE, Problem(status, kind, detail).encode()


class _ApiServer(uvicorn.Server):
    """A server that leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    connections: ConnectionLimits,
    trusted_proxies: Sequence[str] = (),
    stop: asyncio.Event,
    on_listening: Callable[[str], None],
) -> None:
    """Serve until `stop` is set, and then finish current requests. `on_listening` gets the URL. Raises `OSError`."""
    with _listen(host, port) as listener:
        config = uvicorn.Config(
            app,
            http=cast("Any", partial(ApiProtocol, limits=connections)),  # uvicorn only calls it
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        )
        server = _ApiServer(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        try:
            on_listening(_url(listener))
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
        finally:
            stopping.cancel()
            connections.reset_all()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # each connection inherits it
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
