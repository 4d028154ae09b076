"""The newest messages of a stream that fit, without reading all of it, and with bounded work for each look.

A stream can be read forwards only. So a look takes windows of sequences from the end backwards, each as wide as the
one before lets expect to be right: what is rare on its subjects is found over wide windows that hold few messages, and
a window that turns out to hold too many is narrowed and looked at again.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.management import stream_info

EXAMINED: Final = 4096
"""Messages that one look reads, about: they take some 60 ms."""
_FIRST_BATCH: Final = 512
"""Messages that are asked for at a time, at first: asking costs the server more the further from the ends it is."""
_WIDEN_AT_MOST: Final = 64

T = TypeVar("T")

Take = Callable[[direct_get.StoredMessage], T | None]


class PageResult(msgspec.Struct, Generic[T], frozen=True):
    """What a look has found, newest first.

    `cursor`: go on before this sequence; None when there is nothing more. A look that has read enough ends although it
    may have found little, or nothing; `reached_at` is when the oldest message that it read was stored.
    """

    items: list[T]
    cursor: int | None = None
    reached_at: datetime | None = None


async def read_page_backwards(
    connection: NatsConnection,
    stream: str,
    subject: str,
    take: Take[T],
    *,
    limit: int,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    examine: int = EXAMINED,
) -> PageResult[T]:
    """What `take` makes of the newest messages, without those for which it says None: at most `limit`.

    `before`: only messages with a lower sequence. `since` and `until`: only those stored from then on, and before then.
    Raises `JetStreamError`.
    """
    state = (await stream_info(connection, stream)).state
    floor, end = state.first_seq, state.last_seq + 1
    end = min(end, before or end)
    if since is not None:
        floor = max(floor, await direct_get.sequence_at(connection, stream, since) or end)
    if until is not None:
        end = min(end, await direct_get.sequence_at(connection, stream, until) or end)
    looking = _ReverseReader(connection, stream, subject, take, limit, examine)
    return await looking.back(floor, end)


async def read_last(
    connection: NatsConnection,
    stream: str,
    subject: str,
    take: Take[T],
    *,
    limit: int,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[T]:
    """The same with as many looks as it takes: newest first, fewer than `limit` only when there are no more."""
    found: list[T] = []
    while True:
        part = await read_page_backwards(
            connection,
            stream,
            subject,
            take,
            limit=limit - len(found),
            before=before,
            since=since,
            until=until,
            examine=4 * EXAMINED,
        )
        found += part.items
        before = part.cursor
        if before is None or len(found) >= limit:
            return found


class _ReverseReader(Generic[T]):
    """One look back through a stream."""

    def __init__(
        self, connection: NatsConnection, stream: str, subject: str, take: Take[T], limit: int, examine: int
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._take = take
        self._limit = limit
        self._left = examine
        self._batch = min(_FIRST_BATCH, examine)
        self._items: list[T] = []
        self._reached_at: datetime | None = None

    async def back(self, floor: int, end: int) -> PageResult[T]:
        """From before `end` back to `floor`, until there is enough."""
        span = min(2 * self._limit, self._batch)
        while end > floor and len(self._items) < self._limit and self._left > 0:
            start = max(floor, end - span)
            records, is_whole = await self._window(start, end)
            self._left -= len(records)
            if is_whole:
                end = self._add(records) or start
                span = self._next_span(span, len(records))
            else:
                span = _narrowed(records, end)
        return PageResult(self._items, end if end > floor else None, self._reached_at)

    async def _window(self, start: int, end: int) -> tuple[list[direct_get.StoredMessage], bool]:
        """What is stored from `start` to before `end`, and whether that is all of it."""
        size = min(self._batch, end - start)
        records, more = await direct_get.batch(
            self._connection, self._stream, self._subject, first_sequence=start, size=size
        )
        inside = [record for record in records if record.sequence < end]
        return inside, not (more and records) or len(inside) < len(records) or size == end - start

    def _add(self, records: list[direct_get.StoredMessage]) -> int | None:
        """Keep what fits, up to the limit. The sequence of the last one when that filled it."""
        for record in reversed(records):
            self._reached_at = record.stored_at
            item = self._take(record)
            if item is not None:
                self._items.append(item)
                if len(self._items) >= self._limit:
                    return record.sequence
        return None

    def _next_span(self, span: int, seen: int) -> int:
        """As wide as should hold what is still wanted; while little of what is seen fits, most of a larger batch."""
        wanted = 2 * (self._limit - len(self._items))
        if seen > 2 * len(self._items):
            self._batch = max(self._left, 1)
            wanted = self._batch
        return max(1, min(span * _WIDEN_AT_MOST, span * wanted * 3 // (4 * max(seen, 1))))


def _narrowed(records: list[direct_get.StoredMessage], end: int) -> int:
    """A window before `end` that holds less, if the messages are as dense there as where these came from."""
    covered = records[-1].sequence - records[0].sequence + 1
    return max(1, min(covered // 2, (end - records[0].sequence) // 4))
