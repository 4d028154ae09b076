"""Minimal HTTP client with kept connections: an asyncio protocol around httptools, without error handling."""

import asyncio
import ssl
from functools import cache
from typing import cast
from urllib.parse import urlsplit

from httptools import HttpResponseParser


class BareHttp:
    """A pool of connections by host and port, which are reused as soon as they are free."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._free: dict[tuple[str, int], list[_Connection]] = {}

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """POST and return the status."""
        host, port, start = _split(url)
        free = self._free.setdefault((host, port), [])
        connection = free.pop() if free else await self._connect(host, port)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
        status = await connection.exchange(b"%b%bcontent-length: %d\r\n\r\n%b" % (start, lines, len(body), body))
        if connection.is_kept:
            free.append(connection)
        return status

    async def _connect(self, host: str, port: int) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, host, port, ssl=self._tls)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_kept = True
        self._parser = HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()

    def exchange(self, request: bytes) -> asyncio.Future[int]:
        self._answered: asyncio.Future[int] = self._loop.create_future()
        self._transport.write(request)
        return self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("closed"))

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_kept = False
            self._transport.close()
        self._answered.set_result(self._parser.get_status_code())


@cache
def _split(url: str) -> tuple[str, int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    return host, port, f"POST {parts.path} HTTP/1.1\r\nhost: {host}:{port}\r\n".encode()
