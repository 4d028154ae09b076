"""The HTTP/1.1 server: uvicorn, with limits on the size and the duration of request heads.

Malformed HTTP is answered with a problem document, too.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from oneprotect.api.web.problems import MEDIA_TYPE, Problem

HEAD_BYTES: Final = 32 * 1024
"""The maximum size of request line and headers."""
HEAD_TIMEOUT_S: Final = 10.0
"""The maximum time from the first byte of a request to the end of its headers, and from connecting to that byte."""
KEEP_ALIVE_S: Final = 75
"""Longer than the idle timeout of most load balancers, so that they close idle connections first."""
DRAIN_TIMEOUT_S: Final = 20
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""The characters of a `Host` header (RFC 9110, section 7.2)."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection. A slow, large or malformed head gets a problem document, and closes the connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait for a head."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data; reject a head that is too large."""
        if self._in_head:
            if self._deadline is None:
                self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        # A body in the same data is not counted: by now its head is complete.
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._reject(Problem(431, "head-too-large", f"Request line and headers exceed {HEAD_BYTES} bytes."))

    def on_headers_complete(self) -> None:
        """Start to receive the body."""
        self._stop_waiting()
        self._in_head = False
        self._head_bytes = 0
        if any(name == b"host" and not _HOST.fullmatch(value) for name, value in self.headers):
            self.send_400_response("invalid host")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the head of the next request."""
        super().on_message_complete()
        self._in_head = True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Reject malformed HTTP."""
        self._reject(Problem(400, "bad-request", "The request is not valid HTTP/1.1."))

    @property
    def _is_responding(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request, despite its type
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._on_timeout)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_timeout(self) -> None:
        self._deadline = None
        self._reject(Problem(408, "too-slow", f"The headers did not arrive within {HEAD_TIMEOUT_S:g} seconds."))

    def _reject(self, problem: Problem) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if not self._is_responding:  # never into the middle of another response
            body = problem.encode()
            head = (
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
                "cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()


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
    trusted_proxies: Sequence[str] = (),
    stop: asyncio.Event,
    on_listening: Callable[[str], None],
) -> None:
    """Serve until `stop` is set, and then finish current requests. `on_listening` gets the URL. Raises `OSError`."""
    with _listen(host, port) as listener:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
