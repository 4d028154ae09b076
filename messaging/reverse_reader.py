"""Reads of the newest matching messages of a stream, with bounded work for each page.

A stream can only be read forwards. The reader therefore reads windows of sequences from the end backwards. The density
of matches in one window determines the width of the next. A window with too many messages is narrowed and read again.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.management import stream_info

EXAMINED: Final = 4096
"""Messages that one page reads, approximately."""
EXAMINED_BYTES: Final = 1024
"""Bytes per message to examine, on average, after which a page ends."""
PAGE_BYTES: Final = 256 * 1024
"""Bytes of matching messages after which a page ends."""
_HEADERS_BYTES: Final = 256
"""Bytes of a message besides its body, approximately."""
_WIDEN_AT_MOST: Final = 64

T = TypeVar("T")

Take = Callable[[direct_get.StoredMessage], T | None]


class PageResult(msgspec.Struct, Generic[T], frozen=True):
    """A page of results, newest first.

    `cursor`: the sequence before which the next page begins; None after the last page. A page ends after its share of
    messages is read, even if it has few results. `reached_at`: storage time of the oldest message that was read.
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
    """Return the results of `take` for the newest messages. Raises `JetStreamError`.

    Args:
        take: Returns the result for a message, or None to skip the message.
        limit: Most results to return.
        before: Only messages with a lower sequence.
        since: Only messages stored at this time or later.
        until: Only messages stored before this time.
        examine: Most messages to read, approximately. Large messages count as several of `EXAMINED_BYTES`.
    """
    state = (await stream_info(connection, stream)).state
    floor, end = state.first_seq, state.last_seq + 1
    end = min(end, before or end)
    if since is not None:
        floor = max(floor, await direct_get.find_sequence(connection, stream, since) or end)
    if until is not None:
        end = min(end, await direct_get.find_sequence(connection, stream, until) or end)
    reader = _ReverseReader(connection, stream, subject, take, limit, examine)
    return await reader.read(floor, end)


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
    """Read as many pages as needed for `limit` results; see `read_page_backwards`."""
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
    def __init__(
        self, connection: NatsConnection, stream: str, subject: str, take: Take[T], limit: int, examine: int
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._take = take
        self._limit = limit
        self._left = examine
        self._left_bytes = examine * EXAMINED_BYTES
        self._room = PAGE_BYTES
        self._batch = min(direct_get.BATCH, examine)
        self._items: list[T] = []
        self._reached_at: datetime | None = None

    async def read(self, floor: int, end: int) -> PageResult[T]:
        """Read from before `end` back to `floor`, until there are enough results."""
        span = min(2 * self._limit, self._batch)
        while end > floor and not self._is_full and self._left > 0 and self._left_bytes > 0:
            start = max(floor, end - span)
            records, is_whole = await self._window(start, end)
            self._count(records)
            if is_whole:
                end = self._add(records) or start
                span = self._next_span(span, len(records))
            else:
                span = _narrowed(records, end)
        return PageResult(self._items, end if end > floor else None, self._reached_at)

    async def _window(self, start: int, end: int) -> tuple[list[direct_get.StoredMessage], bool]:
        """Return the messages from `start` to before `end`, and whether they are complete."""
        size = min(self._batch, end - start)
        records, more = await direct_get.read_batch(
            self._connection, self._stream, self._subject, first_sequence=start, size=size
        )
        inside = [record for record in records if record.sequence < end]
        return inside, not (more and records) or len(inside) < len(records) or len(inside) == end - start

    @property
    def _is_full(self) -> bool:
        return len(self._items) >= self._limit or self._room <= 0

    def _count(self, records: list[direct_get.StoredMessage]) -> None:
        """Count what was read, and limit the next batch to what the server sends in one."""
        size = sum([len(record.data) + _HEADERS_BYTES for record in records])
        self._left -= len(records)
        self._left_bytes -= size
        if records:
            fitting = direct_get.BATCH_BYTES * 3 // 4 * len(records) // size
            self._batch = max(1, min(direct_get.BATCH, self._left, fitting))

    def _add(self, records: list[direct_get.StoredMessage]) -> int | None:
        """Store results up to the limit; return the sequence of the message that reached it, or None."""
        for record in reversed(records):
            self._reached_at = record.stored_at
            item = self._take(record)
            if item is not None:
                self._items.append(item)
                self._room -= len(record.data)
                if self._is_full:
                    return record.sequence
        return None

    def _next_span(self, span: int, seen: int) -> int:
        """Return the width that probably holds the missing results, or a whole batch while results are rare."""
        wanted = 2 * (self._limit - len(self._items))
        if seen > 2 * len(self._items):
            wanted = self._batch
        return max(1, min(span * _WIDEN_AT_MOST, span * wanted * 3 // (4 * max(seen, 1))))


def _narrowed(records: list[direct_get.StoredMessage], end: int) -> int:
    """Return a narrower width, from the density of the messages that were read."""
    covered = records[-1].sequence - records[0].sequence + 1
    return max(1, min(covered // 2, (end - records[0].sequence) // 4))
