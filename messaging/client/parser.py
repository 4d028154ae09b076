"""Parser of the NATS protocol with a fast path for messages to listeners.

The library matches each line against seven patterns, copies the rest of its buffer, and passes a message through a
queue and a task. The fast path finds the end of the line and calls the listener, a plain function. The library parses
everything else.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line of a server. A large cluster's addresses are in one line."""
YIELD_AFTER_S: Final = 0.005
"""Time of reading after which other tasks run. A shorter time would let them slow down the reading of a flood."""

Listener = Callable[[bytes, bytes, bytes, bytes], None]
"""Function of subject, reply subject, payload and header block; reply subject and header block may be empty."""


class FastParser(Parser):
    """A parser for `client` that passes messages to the `listeners` of their subscriptions, by subscription number."""

    def __init__(self, client: Any, listeners: dict[bytes, Listener]) -> None:  # noqa: ANN401 - it is partly typed
        self._listeners = listeners
        self._client = client
        self._resets = 0
        self.reads = 0
        """Number of reads from the connection that had something."""
        self.yields = False
        """Whether other tasks run from time to time while there is always more to read."""
        self._yield_at = 0.0
        parser: Any = super()
        parser.__init__(client)

    def reset(self) -> None:
        """Discard all buffered input."""
        super().reset()
        self._parts: list[bytes] = []
        self._have = self._needed = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Parse received bytes. Raises `ProtocolError`."""
        self.reads += 1
        if self.yields and time.monotonic() > self._yield_at:
            await asyncio.sleep(0)
            self._yield_at = time.monotonic() + YIELD_AFTER_S
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._needed:
                return
            data, self._parts = b"".join(self._parts), []
        at, needed = await self._parse_complete(data)
        if needed:
            self._parts, self._have, self._needed = [data[at:]], len(data) - at, needed

    async def _parse_complete(self, data: bytes) -> tuple[int, int]:  # noqa: C901 - one loop, because calls are expensive
        """Parse all complete lines and messages.

        Returns:
            Offset of the rest, and the number of bytes that the rest needs to be complete (0: there is no rest).
        """
        resets, listeners = self._resets, self._listeners
        at, end = 0, len(data)
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if end - at > MAX_LINE_BYTES:
                    raise ProtocolError("nats: line too long")
                return at, end - at + 1
            start = line_end + 2
            words = data[at:line_end].split()
            has_headers = words[:1] == [b"HMSG"]
            if not has_headers and words[:1] != [b"MSG"]:
                await super().parse(data[at:start])
                at = start
            else:
                try:
                    size = int(words[-1])
                    body = start + (int(words[-2]) if has_headers else 0)
                    stop = start + size
                    sid, reply = words[2], words[3] if len(words) == 5 + has_headers else b""
                except (IndexError, ValueError):
                    raise ProtocolError("nats: malformed message") from None
                if not start <= body <= stop:
                    raise ProtocolError("nats: malformed message")
                if stop + 2 > end:
                    return at, stop + 2 - at
                at = stop + 2
                listener = listeners.get(sid)
                if listener is not None:
                    try:
                        listener(words[1], reply, data[body:stop], data[start:body])
                        continue
                    except Exception as error:  # noqa: BLE001 - reported like the library reports its callbacks
                        failed = error
                    await self._client._error_cb(failed)
                else:
                    await self._client._process_msg(int(sid), words[1], reply, data[body:stop], data[start:body])
            if self._resets != resets:  # a new connection: the rest belongs to the old one
                return end, 0
        return at, 0
