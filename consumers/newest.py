"""The newest messages of a stream that fit, without reading all of it."""

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from oneprotect.jetstream import read
from oneprotect.jetstream.connection import Connection

FIRST_SPAN: Final = 1024
"""Stream sequences looked at first, from the end; each further look goes four times as far back."""

T = TypeVar("T")

Take = Callable[[read.Record], T | None]


async def newest(
    connection: Connection,
    stream: str,
    subject: str,
    take: Take[T],
    *,
    limit: int,
    before: int | None = None,
    since: datetime | None = None,
) -> list[T]:
    """What `take` makes of the newest messages, newest first: at most `limit`, without those for which it says None.

    `before`: only messages with a lower sequence. `since`: nothing that was stored earlier is looked for.
    Raises `JetStreamError`.
    """
    state = (await connection.api(f"STREAM.INFO.{stream}"))["state"]
    first, end = int(state["first_seq"]), int(state["last_seq"]) + 1
    end = min(end, before or end)
    found: list[T] = []
    span = FIRST_SPAN
    while end > first and len(found) < limit:
        start = max(first, end - span)
        part: deque[T] = deque(maxlen=limit - len(found))
        reached_past = False
        async for record in _between(connection, stream, subject, start, end):
            if since and record.stored_at < since:
                reached_past = True
            elif (one := take(record)) is not None:
                part.append(one)
        found += reversed(part)
        if reached_past:
            break
        end, span = start, span * 4
    return found


async def _between(
    connection: Connection, stream: str, subject: str, start: int, end: int
) -> AsyncGenerator[read.Record]:
    """What is stored from sequence `start` to before `end`."""
    records = read.scan(connection, stream, subject, first_sequence=start)
    async with contextlib.aclosing(cast("AsyncGenerator[read.Record, Any]", records)) as scan:
        async for record in scan:
            if record.sequence >= end:
                return
            yield record
