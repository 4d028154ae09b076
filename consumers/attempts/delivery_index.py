"""Indexes of deliveries: where the messages of a delivery are on a subject that its destination's others share, too.

A look needs the messages of one delivery, and may come for each of thousands. So what one look has read is indexed for
the others. An index decides nothing. It is completed up to the newest message that the leader names, and the messages
that it names are read from the leader again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Final

from consumers.attempts import leader_reads
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import decode_request, decode_result

MAX_INDEXED: Final = 131_072
"""Messages in all indexes, some 30 MiB. With more on one subject, each look reads the older ones for itself."""
MAX_INDEXES: Final = 1024
MAX_SINGLE: Final = 64
"""Messages about a delivery that are read one by one. With more, all on the subject are read since its time."""
_GAP: Final = timedelta(seconds=10)
"""An index is not continued over a longer time from which no look needs anything."""
_ROUNDED: Final = timedelta(microseconds=1)
"""The server's times have nanoseconds."""
_RESULTS: Final = subjects.attempted("*", "*", "*").partition("*")[0]


class DeliveryIndexes:
    """The indexes of the subjects that were looked at."""

    def __init__(self, connection: NatsConnection, *, max_indexed: int = MAX_INDEXED) -> None:
        self._connection = connection
        self._max_indexed: Final = max_indexed
        self._indexes: OrderedDict[str, _SubjectIndex] = OrderedDict()

    async def read(self, stream: str, subject: str, delivery: str, since: datetime) -> AsyncGenerator[StoredMessage]:
        """Yield what the leader has about a delivery, stored at `since` or later, oldest first.

        Results that are `suppressed` are left out. Raises `JetStreamError`.
        """
        index = self._indexes.get(subject)
        if index is None:
            index = self._indexes[subject] = _SubjectIndex(self._connection, stream, subject, self._max_indexed)
        self._indexes.move_to_end(subject)
        sequences = await index.find(delivery, since)
        while len(self._indexes) > MAX_INDEXES or sum(one.size for one in self._indexes.values()) > self._max_indexed:
            self._indexes.popitem(last=False)
        if len(sequences) > MAX_SINGLE:  # an id that is used again and again
            async for one in leader_reads.scan(self._connection, stream, subject, sequences[-1], since=since):
                if _delivery_of(one) == delivery:
                    yield one
            return
        for sequence in sequences:
            record = await leader_reads.get(self._connection, stream, sequence)
            if record is None:
                index.forget(delivery, sequence)
            elif record.subject == subject and record.stored_at >= since and _delivery_of(record) == delivery:
                yield record


class _SubjectIndex:
    """The sequences of each delivery's messages on a subject, from a time on.

    It is continued only while its newest message is still there. So it is dropped when a server has lost messages, and
    uses their sequences again.
    """

    def __init__(self, connection: NatsConnection, stream: str, subject: str, max_size: int) -> None:
        self._place: Final = connection, stream, subject
        self._max_size: Final = max_size
        self._lock = asyncio.Lock()
        self._begun = self._ended = 0
        """Numbers of the update that began last, and of the one that ended last."""
        self._clear()

    def _clear(self) -> None:
        self._sequences: dict[str, list[int]] = {}
        self.size = 0
        self._first, self._since = 0, datetime.min.replace(tzinfo=UTC)
        self._newest: tuple[int, datetime] | None = None

    async def find(self, delivery: str, since: datetime) -> list[int]:
        """Return the sequences of the messages about a delivery: all from `since` on, and perhaps older ones.

        Looks that wait for each other share an update, if it begins after them.
        """
        needed = self._begun + 1
        async with self._lock:
            if self._ended < needed:
                self._begun += 1
                await self._update(since)
                self._ended = self._begun
            older = await self._read_older(delivery, since) if since < self._since else ()
            return [*older, *self._sequences.get(delivery, ())]

    def forget(self, delivery: str, sequence: int) -> None:
        """Forget a message that was removed."""
        known = self._sequences.get(delivery, [])
        if sequence in known:
            known.remove(sequence)
            self.size -= 1
            if not known:
                del self._sequences[delivery]

    async def _update(self, since: datetime) -> None:
        """Index what is newer than the index, or begin at the newest message."""
        last = await leader_reads.get_last(*self._place)
        if last is None:
            self._clear()
        elif not await self._continue(last, since):
            self._begin(last)

    async def _continue(self, last: StoredMessage, since: datetime) -> bool:
        """Index the messages up to the newest one. Return whether the index is still true."""
        if self._newest is None or since > self._newest[1] + _GAP:
            return False
        if last.sequence <= self._newest[0]:
            return _identity(last) == self._newest
        is_continued = False
        async for record in leader_reads.scan(*self._place, last.sequence, first_sequence=self._newest[0]):
            if is_continued:
                self._add(record)
            elif _identity(record) == self._newest:
                is_continued = True
            else:
                return False
        return is_continued

    def _begin(self, record: StoredMessage) -> None:
        self._clear()
        self._first, self._since = record.sequence, record.stored_at + _ROUNDED
        self._add(record)

    def _add(self, record: StoredMessage) -> None:
        if self.size >= self._max_size:
            self._begin(record)
            return
        self._newest = _identity(record)
        if (delivery := _delivery_of(record)) is not None:
            self._sequences.setdefault(delivery, []).append(record.sequence)
            self.size += 1

    async def _read_older(self, delivery: str, since: datetime) -> list[int]:
        """Index what was stored from `since` on before the index begins. If it is too much, return the delivery's."""
        found: dict[str, list[int]] = {}
        first, room = self._first, self._max_size - self.size
        async for record in leader_reads.scan(*self._place, self._first - 1, since=since):
            first = min(first, record.sequence)
            if (other := _delivery_of(record)) is not None:
                if room > 0 or other == delivery:
                    found.setdefault(other, []).append(record.sequence)
                room -= 1
        if room < 0:
            return found.get(delivery, [])
        for other, sequences in found.items():
            self._sequences[other] = sequences + self._sequences.get(other, [])
            self.size += len(sequences)
        self._first, self._since = first, since
        return []


def _identity(record: StoredMessage) -> tuple[int, datetime]:
    return record.sequence, record.stored_at


def _delivery_of(record: StoredMessage) -> str | None:
    """Return the delivery that a message is about, or None if no look needs it."""
    try:
        if not record.subject.startswith(_RESULTS):
            return decode_request(record.data).id
        result = decode_result(record.data).data
    except ValueError:
        return None
    return None if result.outcome is Outcome.SUPPRESSED else result.delivery
