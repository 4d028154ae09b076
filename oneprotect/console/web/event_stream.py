"""New attempts as server-sent events, within limits for each session, token and tenant.

All streams of a tenant share one subscription, which decodes each attempt once, and a limit of the rows that are shown
a second. A stream ends with its session, its token and the process.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Final

from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.periodic import pause
from messaging.token_buckets import TokenBuckets
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.sessions import ConsoleSession
from schemas import subjects
from schemas.events import DeliveryAttempted, decode_result

MAX_STREAMS: Final = 500
"""The maximum number of streams of the process."""
MAX_TOKEN_STREAMS: Final = 20
"""The maximum number of streams of all sessions that a token opened."""
MAX_SESSION_STREAMS: Final = 6
"""The maximum number of streams of a session; browsers open no more connections to a host."""
MAX_BUFFERED: Final = 200
"""The maximum number of attempts that wait for one client; the oldest are dropped and counted."""
ROWS_PER_S: Final = 500
"""The maximum number of attempts that all streams of a tenant show a second. Beyond it they wait, or are dropped."""
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

    def add(self, event: DeliveryAttempted) -> None:
        """Add an attempt if it matches."""
        if self._matches(event):
            self._missed += len(self._waiting) == MAX_BUFFERED
            self._waiting.append(event)

    def drain(self) -> tuple[list[DeliveryAttempted], int]:
        """Remove and return the waiting attempts, oldest first, and the number of dropped ones."""
        taken, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return taken, missed


class TenantFeed:
    """The new attempts of one tenant, for all streams that follow it."""

    def __init__(self, connection: NatsConnection, tenant: str) -> None:
        self.buffers: set[EventBuffer] = set()
        pattern = subjects.attempted(tenant, "*", "*")
        self.subscribing = asyncio.ensure_future(connection.subscribe(pattern, self._receive))

    async def end(self) -> None:
        """End the subscription."""
        with contextlib.suppress(Exception):  # of the client library, while the connection closes
            await (await self.subscribing).unsubscribe()

    async def _receive(self, incoming: IncomingMessage) -> None:
        """Add the attempt of a message to the buffers."""
        with contextlib.suppress(ValueError):
            event = decode_result(incoming.data)
            for buffer in self.buffers:
                buffer.add(event)


class AttemptFeeds:
    """The new attempts of the tenants that are followed."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._feeds: dict[str, TenantFeed] = {}
        self._rows = TokenBuckets(burst=ROWS_PER_S, per_s=ROWS_PER_S)

    @contextlib.asynccontextmanager
    async def follow(self, tenant: str, arrivals: EventBuffer) -> AsyncGenerator[None]:
        """Add the tenant's new attempts to the buffer while the context is open."""
        feed = self._feeds.get(tenant)
        if feed is None:
            feed = self._feeds[tenant] = TenantFeed(self._connection, tenant)
        feed.buffers.add(arrivals)
        try:
            await asyncio.shield(feed.subscribing)
            yield
        finally:
            feed.buffers.remove(arrivals)
            if not feed.buffers:
                del self._feeds[tenant]
                await feed.end()

    def may_show(self, tenant: str) -> bool:
        """Return whether a stream of the tenant may show attempts now."""
        return not self._rows.wait_s(tenant)

    def count_shown(self, tenant: str, rows: int) -> None:
        """Count attempts that a stream of the tenant shows."""
        self._rows.take(tenant, rows)


async def stream_events(
    arrivals: EventBuffer,
    render: Callable[[list[DeliveryAttempted], int], bytes],
    *,
    may_show: Callable[[], bool],
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
        taken, missed = arrivals.drain() if may_show() else ([], 0)
        beats += INTERVAL_S
        if taken:
            yield _event("attempts", render(taken, missed))
            beats = 0
        elif beats >= HEARTBEAT_S:
            yield b": heartbeat\n\n"
            beats = 0
    if stop.is_set() or not allowed:
        yield _event("bye", b"")


def _event(name: str, data: bytes) -> bytes:
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return b"event: " + name.encode() + b"\n" + lines + b"\n"
