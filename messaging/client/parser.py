"""What a server sends, taken apart: messages for those who listen at once, and everything else by the client library.

The library matches each line against seven patterns, copies what is left of its buffer after each, and hands a message
over through a queue and a task: some 60 calls. Here it is a look for the line's end and one call (14 µs less for a
delivery, of 80). Listeners are plain functions: each has done its work when it returns.
"""

from collections.abc import Callable
from typing import Any, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

MAX_LINE_BYTES: Final = 1024 * 1024
"""What a server may say without ending the line. It tells a large cluster's addresses in one."""

Listener = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, where to answer, payload and block of headers of a message; the second and the last may be empty."""


class FastParser(Parser):
    """A parser for `client`. Messages of the subscriptions in `listeners`, by number, go straight there."""

    def __init__(self, client: Any, listeners: dict[bytes, Listener]) -> None:  # noqa: ANN401 - it is partly typed
        self._listeners = listeners
        self._client = client
        self._resets = 0
        parser: Any = super()
        parser.__init__(client)

    def reset(self) -> None:
        """Forget what has come of the connection so far."""
        super().reset()
        self._parts: list[bytes] = []
        self._have = self._needed = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Take in what has come. Raises `ProtocolError`."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._needed:
                return
            data, self._parts = b"".join(self._parts), []
        at, needed = await self._take(data)
        if needed:
            self._parts, self._have, self._needed = [data[at:]], len(data) - at, needed

    async def _take(self, data: bytes) -> tuple[int, int]:  # noqa: C901 - one loop, as it is calls that cost
        """Take all that is whole; where the rest begins, and how much it must become before another look (0: none)."""
        resets, listeners = self._resets, self._listeners
        at, end = 0, len(data)
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if end - at > MAX_LINE_BYTES:
                    raise ProtocolError("nats: a line without an end")
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
                    except Exception as error:  # noqa: BLE001 - told as the library tells of its own callbacks
                        failed = error
                    await self._client._error_cb(failed)
                else:
                    await self._client._process_msg(int(sid), words[1], reply, data[body:stop], data[start:body])
            if self._resets != resets:  # there is another connection by now: what is left is of the one before
                return end, 0
        return at, 0
