"""New attempts as server-sent events, within limits for each session, token and tenant.

A stream ends with its session, its token and the process.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Final

import msgspec

from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.periodic import pause
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.sessions import ConsoleSession
from schemas.events import DeliveryAttempted, decode_result

MAX_STREAMS: Final = 500
"""The maximum number of streams of the process."""
MAX_TOKEN_STREAMS: Final = 20
"""The maximum number of streams of all sessions that a token opened."""
MAX_SESSION_STREAMS: Final = 6
"""The maximum number of streams of a session; browsers open no more connections to a host."""
MAX_BUFFERED: Final = 200
"""The maximum number of attempts that wait for one client; the oldest are dropped and counted."""
INTERVAL_S: Final = 0.25
HEARTBEAT_S: Final = 10.0
MAX_DURATION_S: Final = 900.0
"""The stream then ends, and the browser reconnects by itself."""


class EventStreamLimiter:
    """The open streams of this process, by session, token and tenant."""

    def __init__(self, *, per_tenant: int) -> None:
        self._per_tenant = per_tenant
        self._open: Counter[tuple[str, str]] = Counter()

    def require_capacity(self, session: ConsoleSession) -> None:
        """Raise `Problem` if the session, its token, its tenant or the process has too many streams."""
        for key, limit in self._limits(session):
            if self._open[key] >= limit:
                detail = f"Too many pages are following live: {limit} of the {key[0]}. Close one and retry."
                raise Problem(429, "too-many-streams", detail)

    @contextlib.contextmanager
    def count(self, session: ConsoleSession) -> Generator[bool]:
        """Count a stream of the session while the context is open; yield false if others were faster."""
        limits = self._limits(session)
        keys = [key for key, _ in limits] if all(self._open[key] < limit for key, limit in limits) else []
        self._open.update(keys)
        try:
            yield bool(keys)
        finally:
            self._open.subtract(keys)
            self._open += Counter()  # drops keys without streams

    def _limits(self, session: ConsoleSession) -> tuple[tuple[tuple[str, str], int], ...]:
        return (
            (("session", session.id), MAX_SESSION_STREAMS),
            (("token", session.principal.id), MAX_TOKEN_STREAMS),
            (("tenant", session.principal.tenant), self._per_tenant),
            (("process", ""), MAX_STREAMS),
        )


class EventBuffer:
    """Attempts that have arrived and wait to be sent."""

    def __init__(self, matches: Callable[[DeliveryAttempted], bool]) -> None:
        self._matches = matches
        self._waiting: deque[DeliveryAttempted] = deque(maxlen=MAX_BUFFERED)
        self._missed = 0

    async def receive(self, incoming: IncomingMessage) -> None:
        """Add the attempt of a message if it matches."""
        with contextlib.suppress(msgspec.DecodeError):
            event = decode_result(incoming.data)
            if self._matches(event):
                self._missed += len(self._waiting) == MAX_BUFFERED
                self._waiting.append(event)

    def drain(self) -> tuple[list[DeliveryAttempted], int]:
        """Remove and return the waiting attempts, oldest first, and the number of dropped ones."""
        taken, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return taken, missed


async def stream_events(
    arrivals: EventBuffer,
    render: Callable[[list[DeliveryAttempted], int], bytes],
    *,
    is_allowed: Callable[[], Awaitable[bool]],
    stop: asyncio.Event,
) -> AsyncGenerator[bytes]:
    """Yield events until `stop` is set, `is_allowed` returns false, or `MAX_DURATION_S` has passed."""
    yield b"retry: 2000\nevent: hello\ndata: \n\n"
    beats = 0.0
    ends_at = asyncio.get_running_loop().time() + MAX_DURATION_S
    while (allowed := await is_allowed()) and asyncio.get_running_loop().time() < ends_at:
        if await pause(INTERVAL_S, stop):
            break
        taken, missed = arrivals.drain()
        beats += INTERVAL_S
        if taken:
            yield _event("attempts", render(taken, missed))
            beats = 0
        elif beats >= HEARTBEAT_S:
            yield b": heartbeat\n\n"
            beats = 0
    if stop.is_set() or not allowed:
        yield _event("bye", b"")


@contextlib.asynccontextmanager
async def buffer_events(connection: NatsConnection, pattern: str, arrivals: EventBuffer) -> AsyncGenerator[None]:
    """Add messages on `pattern` to the buffer while the context is open."""
    subscription = await connection.subscribe(pattern, arrivals.receive)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # of the client library, while the connection closes
            await subscription.unsubscribe()


def _event(name: str, data: bytes) -> bytes:
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return b"event: " + name.encode() + b"\n" + lines + b"\n"
