"""One exchange on one connection: what aiohttp's client needs to have its connections kept clean.

Two things that HTTP/1.1 asks of a client, and that this adds to aiohttp (RFC 9112, sections 6.3 and 9.3):
- An answer that was never asked for, such as the 408 that some proxies send to an idle connection, or what a wrong
  `content-length` left over, belongs to no request. aiohttp takes it for the answer to the next one.
- A head that is whole is an answer, whatever follows it. aiohttp drops a head if the bytes after it break the protocol
  and happen to come in the same segment, so a receiver that miscounts its bodies would have its deliveries sent over
  and over.
"""

import asyncio
from typing import Final

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

_HEAD_END: Final = b"\r\n\r\n"
_STATUS_CLASS: Final = slice(9, 10)
"""Where `HTTP/1.1 204` has its 2."""


class UncleanConnection(aiohttp.ClientConnectionError):
    """Nothing was sent: the connection holds what belongs to no request. It is closed; another one may be tried."""


class Request(aiohttp.ClientRequest):
    """A request with the caller's headers, `host`, `content-length` and `accept-encoding: identity`, and no others."""

    DEFAULT_HEADERS = {hdrs.ACCEPT_ENCODING: "identity"}  # noqa: RUF012  aiohttp's own attribute, and never changed

    def update_auto_headers(self, skip_auto_headers: object) -> None:
        """Add the default header; aiohttp would add its own name and version, too."""
        del skip_auto_headers
        for name, value in self.DEFAULT_HEADERS.items():
            self.headers.setdefault(name, value)

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send. Raises `UncleanConnection` for one that was in use before and has something waiting to be read."""
        if conn.protocol is not None and conn.transport is not None:
            _expect_head(conn.protocol, conn.transport)
        return await super().send(conn)


def _expect_head(handler: ResponseHandler, transport: asyncio.Transport) -> None:
    protocol = transport.get_protocol()
    if not isinstance(protocol, HeadFirst):
        transport.set_protocol(HeadFirst(handler))
    elif handler.should_close:
        raise UncleanConnection
    else:
        protocol.expect_head()


class HeadFirst(asyncio.Protocol):
    """Stands before a connection's protocol and gives it the head of an answer apart from what follows."""

    __slots__ = ("_end_of_last", "_handler", "_in_head", "_start")

    def __init__(self, handler: asyncio.Protocol) -> None:
        self._handler = handler
        self.expect_head()

    def expect_head(self) -> None:
        """A request is about to be sent."""
        self._in_head = True
        self._start = b""
        self._end_of_last = b""

    def data_received(self, data: bytes) -> None:
        """Pass on one head after the other, up to the one that is not informational (1xx); then everything."""
        while self._in_head and data:
            data = data[self._pass_on_head(data) :]
        if data:
            self._handler.data_received(data)

    def _pass_on_head(self, data: bytes) -> int:
        self._start = (self._start + data)[: _STATUS_CLASS.stop]
        end = (self._end_of_last + data).find(_HEAD_END)
        if end < 0:
            self._end_of_last = (self._end_of_last + data)[-3:]
            self._handler.data_received(data)
            return len(data)
        length = end + len(_HEAD_END) - len(self._end_of_last)
        self._handler.data_received(data[:length])
        self._in_head = self._start[_STATUS_CLASS] == b"1"
        self._start = b""
        self._end_of_last = b""
        return length

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._handler.resume_writing()
