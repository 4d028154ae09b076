"""A TCP proxy in front of a server, whose connections can be stalled or reset."""

import asyncio
import contextlib
from typing import Any


class Proxy:
    """Passes bytes to `port` while `passing` is set. A stalled connection stays open, and no byte is lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.passing = asyncio.Event()
        self.passing.set()

    async def start(self) -> int:
        """Listen, and return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def reset(self) -> None:
        """Abort all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Stop listening, and abort all connections."""
        assert self._server is not None
        self._server.close()
        self.passing.set()
        self.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, down = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, down}
        self._writers |= pair
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await _first(self._pump(reader, down), self._pump(up, writer))
        self._writers -= pair
        for one in pair:
            one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.passing.wait()
            writer.write(data)
            await writer.drain()


async def _first(*pumps: Any) -> None:
    """Wait until one direction has ended, and end the other one."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
