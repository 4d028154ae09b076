"""Attempts as they are recorded, as server-sent events: bounded for each client, and over when the process ends."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final

import msgspec

from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.periodic import pause
from oneprotect.api.web.problems import Problem
from schemas.events import DeliveryAttempted, decode_result

MOST: Final = 200
"""Streams in one process."""
MOST_OF_ONE: Final = 6
"""Streams of one session: browsers open no more to a host at once."""
HELD: Final = 200
"""Attempts that wait for one client; of more, the oldest are left out and counted."""
PACE_S: Final = 0.25
HEARTBEAT_S: Final = 10.0
LASTS_S: Final = 900.0
"""After so long the browser is let go, and comes back by itself."""


class EventStreamLimiter:
    """How many clients are listening."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def require_room(self, session: str) -> None:
        """Raise `Problem` when there are too many already."""
        if self._open[session] >= MOST_OF_ONE or self._open.total() >= MOST:
            raise Problem(429, "too-many-streams", "Too many pages follow live already; close some.")

    @contextlib.contextmanager
    def one_more(self, session: str) -> Generator[None]:
        """Count one while it lasts."""
        self._open[session] += 1
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # forgets those that are at zero


class EventBuffer:
    """What arrived and was not taken yet."""

    def __init__(self, takes: Callable[[DeliveryAttempted], bool]) -> None:
        self._takes = takes
        self._waiting: deque[DeliveryAttempted] = deque(maxlen=HELD)
        self._missed = 0

    async def receive(self, incoming: IncomingMessage) -> None:
        """Hear of one."""
        with contextlib.suppress(msgspec.DecodeError):
            event = decode_result(incoming.data)
            if self._takes(event):
                self._missed += len(self._waiting) == HELD
                self._waiting.append(event)

    def take(self) -> tuple[list[DeliveryAttempted], int]:
        """All that wait, oldest first, and how many were left out before them."""
        taken, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return taken, missed


async def stream(
    arrivals: EventBuffer,
    render: Callable[[list[DeliveryAttempted], int], bytes],
    *,
    goes_on: Callable[[], bool],
    stop: asyncio.Event,
) -> AsyncGenerator[bytes]:
    """The events, until `stop` is set, `goes_on` says no, or it is time for the browser to come back."""
    yield b"retry: 2000\nevent: hello\ndata: \n\n"
    beats = 0.0
    ends_at = asyncio.get_running_loop().time() + LASTS_S
    while goes_on() and asyncio.get_running_loop().time() < ends_at:
        if await pause(PACE_S, stop):
            break
        taken, missed = arrivals.take()
        beats += PACE_S
        if taken:
            yield _event("attempts", render(taken, missed))
            beats = 0
        elif beats >= HEARTBEAT_S:
            yield b": still here\n\n"
            beats = 0
    if stop.is_set() or not goes_on():
        yield _event("bye", b"")


@contextlib.asynccontextmanager
async def listening(connection: NatsConnection, pattern: str, arrivals: EventBuffer) -> AsyncGenerator[None]:
    """Hear of what is published on `pattern` meanwhile."""
    subscription = await connection.subscribe(pattern, arrivals.receive)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the client library, when the connection is going
            await subscription.unsubscribe()


def _event(name: str, data: bytes) -> bytes:
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return b"event: " + name.encode() + b"\n" + lines + b"\n"
