"""One HTTP/1.1 connection: a request is written, its answer read, and then perhaps the next one (RFC 9112).

What is kept to, as a receiver that has taken a delivery must not get it again, and one that has not must not be
believed to have:
- The head decides. Once it is whole nothing that happens to the body changes the answer; a connection that is not done
  with its answer, or has more to say than it was asked for, is closed.
- What arrives while nothing was asked belongs to no request: the connection is closed. Only a connection's first bytes
  may come early, since there is just one request that they can be about.
- Head and body are bounded, and one timer holds the deadline of the exchange, or of being idle.
- An answer that is byte for byte the last one of this connection means the same: parsing it again would cost as much as
  all else here. Receivers that date their answers repeat them for a second.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from math import inf
from typing import Final, Protocol, cast, final

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from consumers.http_client.response import WebhookResponse, response_from_head
from schemas.codes import Code

CAPTURED_BYTES: Final = 3 * 1024
"""More than is shown, so that a secret across the end of what is shown is seen whole, and masked."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of all heads of one answer: the informational ones (1xx) and the one that counts."""
MAX_HEADERS: Final = 128
MAX_LINE_BYTES: Final = 8190
MAX_REMEMBERED_BYTES: Final = 1024
"""Of a longer answer the bytes are not kept."""
BODY_DRAIN_TIMEOUT_S: Final = 2.0
"""How long a body may go on after its status, within the deadline: it only decides whether the connection is kept."""
IDLE_PROBE_AFTER_S: Final = 1.0
"""After so long without use, the socket is asked whether the receiver has hung up. Before that the loop will know."""

ConnectionKey = tuple[str, str, int, str]
"""What may share a connection: scheme, host, port, and the address that it goes to."""

_log = structlog.get_logger(__name__)


OnReply = Callable[[WebhookResponse], None]
"""Told once how an exchange ended: with an answer, or why there is none."""


class ConnectionOwner(Protocol):
    """Where connections are between exchanges. None is kept for longer than `keep_alive_s`."""

    keep_alive_s: float

    def release(self, connection: "HttpConnection") -> None:
        """It is free for another exchange."""
        ...

    def remove(self, connection: "HttpConnection") -> None:
        """It is closed."""
        ...


class _ParsingRefused(Exception):
    """Ends the parsing; why has been noted."""


@final
class HttpConnection(asyncio.Protocol):
    """A connection to `place`, with one exchange at a time. `begin` the first one before it is made."""

    __slots__ = (
        "_armed_at",
        "_beginning",
        "_capture",
        "_deadline",
        "_fault",
        "_head_size",
        "_headers",
        "_idle_since",
        "_is_complete",
        "_is_graced",
        "_is_reusable",
        "_keeper",
        "_last",
        "_last_reply",
        "_loop",
        "_on_reply",
        "_parser",
        "_reason_size",
        "_request",
        "_retry_after",
        "_seen",
        "_size",
        "_socket",
        "_status",
        "_timer",
        "_transport",
        "place",
    )

    def __init__(self, place: ConnectionKey, sock: socket.socket, keeper: ConnectionOwner) -> None:
        self.place = place
        self._socket = sock
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        # A receiver with bare line feeds or a blank before a colon has answered, and nothing here is passed on.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = inf
        self._idle_since = 0.0
        self._on_reply: OnReply | None = None
        self._request = b""
        self._retry_after: bytes | None = None
        self._fault: Code | None = None
        self._last = b""
        """The last answer, if it came in one piece, ended cleanly, and means the same at any time."""

    def send_request(self, request: bytes, deadline: float, on_reply: OnReply, *, capture: bool = False) -> None:
        """Send `request` once there is a connection, and call `on_reply` once, at the loop's `deadline` at last."""
        self._on_reply = on_reply
        self._deadline = deadline
        self._capture = capture
        self._status = self._seen = 0
        # One timer for all exchanges, set again when it rings too early: one for each would cost 0.9 µs.
        if self._armed_at > deadline:
            self._arm(deadline)
        if self._transport is None:
            self._request = request
        else:
            self._transport.write(request)

    def is_reusable(self, now: float) -> bool:
        """Whether nothing says that the receiver has hung up, or has something to say that nobody asked for."""
        if self._transport is None or self._transport.is_closing():
            return False
        if now - self._idle_since < IDLE_PROBE_AFTER_S:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        """Close at once. An exchange that is going on ends as `net.reset`, unless its status has come."""
        if self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close at once, and call nobody."""
        self._on_reply = None
        self.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request that was begun."""
        self._transport = cast("asyncio.Transport", transport)
        if self._on_reply is None:
            self._transport.abort()
            return
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        if self._on_reply is None:
            self.abort()
            return
        is_first = not self._seen
        if is_first:
            if data == self._last and not self._capture:
                self._end(self._last_reply, is_free=True)
                return
            self._start_reading()
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._on_broken(error.__context__)
            return
        if not self._is_complete:
            self._on_part()
            return
        reply = self._reply()
        if is_first and self._is_reusable:
            self._remember(data, reply)
        self._end(reply, is_free=self._is_reusable)

    def eof_received(self) -> None:
        """Nothing more will come: what has come is the answer, if it is one. The transport closes itself."""
        self._break_off(Code.NET_RESET)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._keeper.remove(self)
        match exc:
            case ssl.SSLError():
                self._break_off(Code.NET_TLS)
            case TimeoutError():
                self._break_off(Code.NET_TIMEOUT)
            case _:
                self._break_off(Code.NET_RESET)
        del self._parser  # it refers to us

    # What the parser calls

    def on_message_begin(self) -> None:
        """Another answer than the one that was asked for is none of ours."""
        if self._is_complete:
            raise _ParsingRefused

    def on_status(self, reason: bytes) -> None:
        """Bound the status line."""
        self._reason_size += len(reason)
        if self._reason_size > MAX_LINE_BYTES:
            self._refuse(Code.NET_RESPONSE_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep `Retry-After`, of a head and not of a trailer, and bound all of them."""
        self._headers += 1
        size = len(name) + len(value)
        self._head_size += size
        if self._headers > MAX_HEADERS or size > MAX_LINE_BYTES or self._head_size > MAX_HEAD_BYTES:
            self._refuse(Code.NET_RESPONSE_TOO_LARGE)
        if b"\x00" in value:
            self._refuse(Code.NET_RESET)
        if len(name) == 11 and not self._status and self._retry_after is None and name.lower() == b"retry-after":
            self._retry_after = value

    def on_headers_complete(self) -> None:
        """The head is whole. An informational one is read past; there is no other protocol to switch to."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status
        elif status < 100 or status == 101:
            self._refuse(Code.NET_RESET)

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._size += len(body)
        if self._capture:
            self._beginning += body[: CAPTURED_BYTES - len(self._beginning)]

    def on_message_complete(self) -> None:
        """The answer is whole, or only an informational one."""
        if self._status:
            self._is_complete = True
            self._is_reusable = self._parser.should_keep_alive()  # now that trailers have had their say as well
        else:
            self._headers = self._reason_size = 0
            self._retry_after = None

    # How it goes on

    def _start_reading(self) -> None:
        self._head_size = self._headers = self._reason_size = self._size = 0
        self._beginning = b""
        self._retry_after = None
        self._fault = None
        self._is_complete = self._is_graced = False

    def _reply(self) -> WebhookResponse:
        return response_from_head(self._status, self._retry_after, self._size, self._beginning)

    def _remember(self, data: bytes, reply: WebhookResponse) -> None:
        """Keep an answer that was all of what came, so that the parser is where it was before: at a message's start.

        Not one that says when to come back, as that may be a date, nor one whose body was asked for.
        """
        if len(data) <= MAX_REMEMBERED_BYTES and self._retry_after is None and not self._capture:
            self._last, self._last_reply = data, reply

    def _refuse(self, code: Code) -> None:
        self._fault = code
        raise _ParsingRefused

    def _on_broken(self, context: BaseException | None) -> None:
        """What came is no HTTP, or more than was asked for, or more than is taken."""
        if context is not None and not isinstance(context, _ParsingRefused):
            _log.error("reading an answer failed", error=type(context).__qualname__)
            self._fault = Code.INTERNAL
        self._break_off(self._fault or Code.NET_RESET)

    def _on_part(self) -> None:
        """There is more to come."""
        if not self._status:
            if self._seen > MAX_HEAD_BYTES:
                self._break_off(Code.NET_RESPONSE_TOO_LARGE)
        elif self._seen > MAX_BODY_BYTES + MAX_HEAD_BYTES or self._size > MAX_BODY_BYTES:
            self._end(self._reply(), is_free=False)
        elif not self._is_graced:
            self._is_graced = True
            self._deadline = min(self._deadline, self._loop.time() + BODY_DRAIN_TIMEOUT_S)
            if self._armed_at > self._deadline:
                self._arm(self._deadline)

    def _break_off(self, code: Code) -> None:
        """End with what there is: the answer if its head is whole, or else this code."""
        if self._on_reply is None:
            return
        if self._status:
            self._end(self._reply(), is_free=False)
            return
        on_reply, self._on_reply = self._on_reply, None
        self.abort()
        on_reply(WebhookResponse(code))

    def _end(self, reply: WebhookResponse, *, is_free: bool) -> None:
        """End with an answer. A receiver that answers before it has the whole request can't have another one."""
        on_reply, transport = self._on_reply, self._transport
        if on_reply is None or transport is None:
            return
        self._on_reply = None
        if is_free and not transport.get_write_buffer_size():
            self._idle_since = self._loop.time()
            if self._armed_at > self._idle_since + self._keeper.keep_alive_s:
                self._arm(self._idle_since + self._keeper.keep_alive_s)
            self._keeper.release(self)
        else:
            transport.abort()
        on_reply(reply)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = when
        self._timer = self._loop.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._armed_at = inf
        due = self._idle_since + self._keeper.keep_alive_s if self._on_reply is None else self._deadline
        if due > self._loop.time():
            self._arm(due)
        elif self._on_reply is None:
            self.abort()
        else:
            self._break_off(Code.NET_TIMEOUT)
