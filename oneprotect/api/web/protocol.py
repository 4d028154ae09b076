"""HTTP/1.1 as uvicorn speaks it, with what it leaves open closed: how long a head may take, and how long it may be.

What can't be understood as HTTP is answered with a problem document, too.
"""

import asyncio
import re
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from oneprotect.api.web.problems import MEDIA_TYPE, Problem

HEAD_BYTES: Final = 32 * 1024
"""Request line and headers."""
HEAD_TIMEOUT_S: Final = 10.0
"""From the first byte of a request to the end of its headers, and from connecting to that first byte."""
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""The characters of a `Host` header (RFC 9110, section 7.2)."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Whoever sends a head too slowly, or too much of one, is told so, and hung up on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It is there: now a head has to come."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        if self._in_head:
            if self._deadline is None:
                self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        # A body that came along with its head is not counted: then the head is complete by now.
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(Problem(431, "head-too-large", f"Request line and headers have more than {HEAD_BYTES} bytes."))

    @property
    def _is_answering(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # there may be none yet, whatever its type says
        return cycle is not None and not cycle.response_complete

    def on_headers_complete(self) -> None:
        """A head is complete: what comes now is a body."""
        self._stop_waiting()
        self._in_head = False
        self._head_bytes = 0
        if any(name == b"host" and not _HOST.fullmatch(value) for name, value in self.headers):
            self.send_400_response("invalid host")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is complete: what comes now is the next one's head."""
        super().on_message_complete()
        self._in_head = True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's name; ours says it in our way
        """Answer to what is no HTTP."""
        self._refuse(Problem(400, "bad-request", "This is not HTTP as we take it."))

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(Problem(408, "too-slow", f"The head took more than {HEAD_TIMEOUT_S:g} s to come."))

    def _refuse(self, problem: Problem) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self._is_answering:  # not into the midst of another answer
            self.transport.close()
            return
        body = problem.encode()
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            "cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()
