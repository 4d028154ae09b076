"""A connection of HTTP/1.1: a request is written, the response read, and then perhaps the next request (RFC 9112).

Invariants: never resend a delivery that the receiver accepted; never record one as accepted that it did not accept.
- The head decides. After the head, nothing that happens to the body changes the result. A connection with an
  unfinished response, or with bytes after it, is closed.
- Bytes that arrive between exchanges belong to no request: the connection is closed. Only a connection's first bytes
  may come early, as they can be about one request only.
- Tenants share no connection.
- Head and body are bounded, and so is the work that they cause: the parser gets small pieces, with limits checked in
  between, and a response in many segments is read after pauses. One timer holds the deadline of the exchange, or of the
  idle connection.
- A response equal to the last one of this connection, byte for byte, is not parsed again: that would cost as much as
  everything else here. Receivers that date their responses repeat them for a second.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from math import inf
from typing import Final, Protocol, cast, final

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from consumers.http_client.response import (
    CAPTURED_BYTES,
    MAX_BODY_BYTES,
    MAX_FRAMING_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    NOT_BEGUN,
    WebhookResponse,
    response_from_head,
)
from consumers.http_client.tls import TlsTransport
from schemas.codes import Code

MAX_REMEMBERED_BYTES: Final = 1024
"""A longer response is parsed each time."""
BODY_DRAIN_TIMEOUT_S: Final = 2.0
"""Time for the body after the head, within the deadline: the body decides only if the connection is reused."""
LAST_LOOK_S: Final = 0.01
"""Time after the deadline in which an answer is read that has arrived before it."""
MAX_TURN_S: Final = 1.0
"""Further time for the tenant's turn to have it decrypted."""
PIECE_BYTES: Final = 2048
"""The parser gets no more at once. A piece of this size causes about a thousand callbacks at most."""
FREE_READS: Final = 4
"""A response in more segments is read after pauses, in which the kernel collects what arrives."""
FIRST_PAUSE_S: Final = 0.005
"""The first pause. Each is twice as long as the one before, so they at most double the time of the response."""
MAX_PAUSE_S: Final = 1.0

ConnectionKey = tuple[str, str, str, int, str]
"""Tenant, scheme, host, port and address: requests with equal keys may share a connection."""

_log = structlog.get_logger(__name__)


OnReply = Callable[[WebhookResponse], None]
"""Called once with the response, or with the code of why there is none."""


class ConnectionOwner(Protocol):
    """Owner of the connections between exchanges, each for `keep_alive_s` at most."""

    keep_alive_s: float

    def release(self, connection: "HttpConnection") -> None:
        """Keep a connection that is free for another exchange."""
        ...

    def remove(self, connection: "HttpConnection") -> None:
        """Remove a closed connection."""
        ...


class _ParsingRefused(Exception):
    """Stops the parser; the connection has noted the reason."""


@final
class HttpConnection(asyncio.Protocol):
    """A connection with one exchange at a time. Call `send_request` for the first before connecting."""

    __slots__ = (
        "_armed_at",
        "_beginning",
        "_capture",
        "_deadline",
        "_fault",
        "_field_from",
        "_framing_from",
        "_give_up_at",
        "_head_size",
        "_headers",
        "_idle_since",
        "_is_complete",
        "_is_graced",
        "_is_reusable",
        "_last",
        "_last_reply",
        "_lines",
        "_look",
        "_looked_for",
        "_loop",
        "_may_begin",
        "_on_reply",
        "_owner",
        "_parser",
        "_pausing",
        "_reads",
        "_reason_size",
        "_request",
        "_retry_after",
        "_seen",
        "_size",
        "_socket",
        "_status",
        "_timer",
        "_tls",
        "_transport",
        "key",
    )

    def __init__(
        self, key: ConnectionKey, sock: socket.socket, owner: ConnectionOwner, tls: TlsTransport | None = None
    ) -> None:
        self.key = key
        self._tls = tls
        self._socket = sock
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        # A receiver with bare line feeds or a space before a colon has answered, and nothing here is passed on.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._look = poll.poll
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._armed_at = inf
        self._looked_for = self._give_up_at = 0.0
        """The deadline for which a last look was taken, and the time until which its bytes may wait for their turn."""
        self._idle_since = 0.0
        self._on_reply: OnReply | None = None
        self._request = b""
        self._retry_after: bytes | None = None
        self._fault: Code | None = None
        self._last = b""
        """The last response, if it arrived in one piece, ended cleanly, and does not depend on the time."""

    def send_request(
        self,
        request: bytes,
        deadline: float,
        on_reply: OnReply,
        *,
        capture: bool = False,
        may_begin: Callable[[], bool] | None = None,
    ) -> None:
        """Send `request` when connected, and call `on_reply` once, by the loop's `deadline` at the latest.

        `may_begin` is asked right before: if it refuses, nothing is sent, and the connection is closed.
        """
        self._on_reply = on_reply
        self._deadline = deadline
        self._capture = capture
        self._status = self._seen = self._reads = 0
        # One timer for all exchanges, set again when it fires too early, is cheaper than one for each.
        if self._armed_at > deadline:
            self._arm(deadline)
        if self._transport is None:
            self._request, self._may_begin = request, may_begin
        elif may_begin is None or may_begin():
            self._transport.write(request)
        else:
            self._refuse_to_begin()

    def is_reusable(self) -> bool:
        """Return True unless the receiver has closed the connection, or has sent bytes without a request.

        The loop may not have read them yet, so the socket is asked: they must not become the next response.
        """
        if self._transport is None or self._transport.is_closing() or self._look(0):
            return False
        return self._tls is None or not self._tls.has_unread()

    def abort(self) -> None:
        """Close at once. An exchange in progress ends with its response if the head arrived, else as `net.reset`."""
        if self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close at once, without a callback."""
        self._on_reply = None
        self.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._reads = 0
        may_begin, self._may_begin = self._may_begin, None
        if self._on_reply is None:
            self._transport.abort()
        elif may_begin is None or may_begin():
            self._transport.write(self._request)
        else:
            self._refuse_to_begin()
        self._request = b""

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes of the response."""
        if self._on_reply is None:
            self.abort()
            return
        is_first = not self._seen
        if is_first:
            if data == self._last and not self._capture:
                self._end(self._last_reply, is_free=True)
                return
            self._start_response()
        try:
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                self._seen += len(piece)
                self._parser.feed_data(piece)
                if not self._is_complete:
                    self._check_limits(piece)
        except (HttpParserError, HttpParserUpgrade, _ParsingRefused) as error:
            self._on_broken(error)
            return
        if not self._is_complete:
            self._on_part()
            return
        reply = self._reply()
        if is_first and self._is_reusable:
            self._remember(data, reply)
        self._end(reply, is_free=self._is_reusable)

    def eof_received(self) -> None:
        """End the exchange with what has arrived. The transport closes itself."""
        self._break_off(Code.NET_RESET)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange, and remove the connection."""
        for timer in (self._timer, self._pausing):
            if timer is not None:
                timer.cancel()
        self._owner.remove(self)
        match exc:
            case ssl.SSLError():
                self._break_off(Code.NET_TLS)
            case TimeoutError():
                self._break_off(Code.NET_TIMEOUT)
            case _:
                self._break_off(Code.NET_RESET)
        del self._parser  # it refers to us

    # Called by the parser

    def on_message_begin(self) -> None:
        """Refuse a second response to one request."""
        if self._is_complete:
            raise _ParsingRefused

    def on_status(self, reason: bytes) -> None:
        """Bound the status line."""
        self._reason_size += len(reason)
        if self._reason_size > MAX_LINE_BYTES:
            self._refuse(Code.NET_RESPONSE_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep `Retry-After`, of a head and not of a trailer, and bound all headers."""
        self._headers += 1
        self._field_from = self._seen
        size = len(name) + len(value)
        self._head_size += size
        if self._headers > MAX_HEADERS or size > MAX_LINE_BYTES or self._head_size > MAX_HEAD_BYTES:
            self._refuse(Code.NET_RESPONSE_TOO_LARGE)
        if b"\x00" in value:
            self._refuse(Code.NET_RESET)
        if len(name) == 11 and not self._status and self._retry_after is None and name.lower() == b"retry-after":
            self._retry_after = value

    def on_headers_complete(self) -> None:
        """Keep the status. An informational head is skipped; there is no other protocol to switch to."""
        status = self._parser.get_status_code()
        self._field_from = self._framing_from = self._seen
        if status >= 200:
            self._status = status
        elif status < 100 or status == 101:
            self._refuse(Code.NET_RESET)

    def on_body(self, body: bytes) -> None:
        """Count the bytes of the body."""
        self._size += len(body)
        if self._capture:
            self._beginning += body[: CAPTURED_BYTES - len(self._beginning)]

    def on_message_complete(self) -> None:
        """Complete the response, unless it is an informational one."""
        if self._status:
            self._is_complete = True
            self._is_reusable = self._parser.should_keep_alive()  # after the trailers, which may change the answer
        else:
            self._headers = self._reason_size = 0
            self._retry_after = None

    # Ends of an exchange

    def _start_response(self) -> None:
        self._head_size = self._headers = self._reason_size = self._size = 0
        self._lines = self._field_from = 0
        self._beginning = b""
        self._retry_after = None
        self._fault = None
        self._is_complete = self._is_graced = False

    def _reply(self) -> WebhookResponse:
        return response_from_head(self._status, self._retry_after, self._size, self._beginning)

    def _remember(self, data: bytes, reply: WebhookResponse) -> None:
        """Remember a response without `Retry-After`, which may be a date, and without a captured body.

        The response was all that arrived, so the parser is at the start of a message, as before.
        """
        if len(data) <= MAX_REMEMBERED_BYTES and self._retry_after is None and not self._capture:
            self._last, self._last_reply = data, reply

    def _refuse(self, code: Code) -> None:
        self._fault = code
        raise _ParsingRefused

    def _on_broken(self, error: Exception) -> None:
        """End an exchange whose response is not HTTP, exceeds a limit, or is followed by more bytes."""
        context = error.__context__
        if context is not None and not isinstance(context, _ParsingRefused):
            _log.error("http.parse_failed", error=type(context).__qualname__)
            self._fault = Code.INTERNAL
        self._break_off(self._fault or Code.NET_RESET)

    def _check_limits(self, piece: bytes) -> None:
        """Bound a response that is not complete after this piece.

        The parser joins the fragments of a field itself. Their number is bounded by lines, pieces and reads.
        """
        if self._status:
            framing = self._seen - self._framing_from - self._size
            if framing > MAX_FRAMING_BYTES or self._size > MAX_BODY_BYTES:
                raise _ParsingRefused
            return
        self._lines += piece.count(b"\n")
        is_long_field = self._seen - self._field_from > MAX_LINE_BYTES + PIECE_BYTES
        if self._seen > MAX_HEAD_BYTES or self._lines > MAX_HEAD_LINES or is_long_field:
            self._refuse(Code.NET_RESPONSE_TOO_LARGE)

    def _on_part(self) -> None:
        """Bound the time for the rest of a response."""
        if self._status and not self._is_graced:
            self._is_graced = True
            self._deadline = min(self._deadline, self._loop.time() + BODY_DRAIN_TIMEOUT_S)
            if self._armed_at > self._deadline:
                self._arm(self._deadline)
        self.on_incomplete_read()

    def on_incomplete_read(self) -> None:
        """Bound the number of reads that end no response."""
        self._reads += 1
        if self._reads > FREE_READS:
            self._pause(min(FIRST_PAUSE_S * 2 ** min(self._reads - FREE_READS - 1, 10), MAX_PAUSE_S))

    def _pause(self, seconds: float) -> None:
        """Stop reading for a while."""
        transport = self._tls or self._transport
        if transport is not None and self._pausing is None and not transport.is_closing():
            transport.pause_reading()
            self._pausing = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        transport = self._tls or self._transport
        if self._pausing is not None and transport is not None:
            self._pausing.cancel()
            self._pausing = None
            transport.resume_reading()

    def _refuse_to_begin(self) -> None:
        on_reply, self._on_reply = self._on_reply, None
        self.abort()
        if on_reply is not None:
            on_reply(NOT_BEGUN)

    def _break_off(self, code: Code) -> None:
        """End with the response if its head is complete, or else with `code`."""
        if self._on_reply is None:
            return
        if self._status:
            self._end(self._reply(), is_free=False)
            return
        on_reply, self._on_reply = self._on_reply, None
        self.abort()
        on_reply(WebhookResponse(code))

    def _end(self, reply: WebhookResponse, *, is_free: bool) -> None:
        """End with a response. A connection whose request is not written yet is not reused."""
        on_reply, transport = self._on_reply, self._transport
        if on_reply is None or transport is None:
            return
        self._on_reply = None
        if is_free and not transport.get_write_buffer_size():
            self._idle_since = self._loop.time()
            if self._armed_at > self._idle_since + self._owner.keep_alive_s:
                self._arm(self._idle_since + self._owner.keep_alive_s)
            self._owner.release(self)
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
        due = self._idle_since + self._owner.keep_alive_s if self._on_reply is None else self._deadline
        if due > self._loop.time():
            self._arm(due)
        elif self._on_reply is None:
            self.abort()
        elif self._looked_for != due:
            # After a pause of the process, timers fire before the loop reads: the answer may be in the socket.
            self._looked_for = due
            self._give_up_at = self._loop.time() + MAX_TURN_S
            self._resume()
            self._arm(self._loop.time() + LAST_LOOK_S)
        elif self._tls is not None and self._tls.waits and self._loop.time() < self._give_up_at:
            self._arm(self._give_up_at)
        else:
            self._break_off(Code.NET_TIMEOUT)
