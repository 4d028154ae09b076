"""Receivers that are scripted byte by byte; their responses need not be valid HTTP."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Exchange:
    """A request, and the connection for its response."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.body = b""
        self.sent = 0
        self._reader = reader
        self._writer = writer

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the request by their names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}

    async def send(self, data: bytes) -> None:
        """Send bytes in a TCP segment of their own, and count them in `sent`."""
        self._writer.write(data)
        await self._writer.drain()
        self.sent += len(data)
        await asyncio.sleep(0)

    async def drip(self, data: bytes) -> None:
        """Send these bytes repeatedly, a few every few milliseconds, until the client closes the connection."""
        while not self._writer.is_closing():
            await self.send(data)
            await asyncio.sleep(0.005)

    async def stay(self) -> None:
        """Send nothing until the client closes the connection."""
        await self._reader.read()

    def close(self) -> None:
        """Close the connection normally."""
        self._writer.close()

    def half_close(self) -> None:
        """Close the sending half of the connection."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Abort the connection with a reset segment."""
        sock = self._writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


class Receiver:
    """A scripted receiver, with its exchanges and the number of its connections."""

    def __init__(self, script: Script) -> None:
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.closed = 0
        self.port = 0
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task that ends with the receiver."""
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def aclose(self) -> None:
        """Close every connection, and raise the error of a failed script."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                exchange = Exchange(head, reader, writer)
                exchange.body = await reader.readexactly(int(exchange.headers["content-length"]))
                self.exchanges.append(exchange)
                await self._script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()


def answering(*segments: bytes, close: bool = False) -> Script:
    """Return a script that answers each request with these bytes."""

    async def answer(exchange: Exchange) -> None:
        for segment in segments:
            await exchange.send(segment)
        if close:
            exchange.close()

    return answer


OK_ALWAYS = answering(OK)


@asynccontextmanager
async def receiving(
    script: Script = OK_ALWAYS, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Receiver]:
    """Run a receiver on a loopback address and a free port."""
    receiver = Receiver(script)
    server = await asyncio.start_server(receiver.accept, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.aclose()
