"""The mover: brings what waits for a destination with `ordering: fifo` into its line, in the order of publishing.

A producer knows one rule: the work stream, and the overflow when that refuses. So one destination's messages stand in
two streams, and the server's timestamps say which came first: a producer that waits for each acknowledgement has them
in its own order. Two streams can't be read at one moment, so what is newer than a moment before both were read is left
for the next time: what is older is in both as they were read. In a cluster two servers give the timestamps; the order
across the two streams is then as good as their clocks.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.lease import Lease, LeaseLost
from messaging.publisher import JetStreamPublisher, Publication
from schemas import subjects

BATCH: Final = 256
_MOMENT: Final = timedelta(microseconds=1)
DOUBTFUL: Final = 1024
"""So many of what a mover moves first may have been moved, or sent, by whoever had the destination before."""


class _SubjectState(msgspec.Struct, frozen=True):
    """A subject as the stream's leader sees it: how many messages, the stream's last sequence, and when that was."""

    count: int
    last: int
    at: datetime


class OrderedTransfer:
    """Moves one destination's messages. Whoever calls it has the destination's lease."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, tenant: str, destination: str
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._lease = lease
        self._line = subjects.ordered(tenant, destination)
        self._work = _SourceStream(connection, subjects.WORK, subjects.requested(tenant, destination))
        self._overflow = _SourceStream(connection, subjects.OVERFLOW, subjects.overflow(tenant, destination))
        self._moved = 0

    async def move(self) -> bool:
        """Move at most a batch. Whether there is more, or may be. Raises `JetStreamError`, `LeaseLost` among them."""
        cut = (await self._work.look()).at - _MOMENT
        overflow, work = await self._overflow.look(), await self._work.look()
        if not overflow.count and not work.count:
            return False
        if not (await self._overflow.read(overflow) and await self._work.read(work)):
            return True  # what answered lags behind
        for source in (self._overflow, self._work):
            if source.has_more:
                cut = min(cut, source.records[-1].stored_at)
        taken = sorted(
            (record.stored_at, place, record)
            for place, source in enumerate((self._work, self._overflow))
            for record in source.records
            if record.stored_at <= cut
        )
        try:
            for _, place, record in taken:
                await self._move_one((self._work, self._overflow)[place], record)
        finally:
            await self._work.clear()
            await self._overflow.clear()
        return self._work.has_more or self._overflow.has_more or len(taken) < self._work.size + self._overflow.size

    async def _move_one(self, source: "_SourceStream", record: StoredMessage) -> None:
        if record.sequence > source.moved:
            if not self._lease.is_held:
                raise LeaseLost
            await self._publisher.publish(Publication(self._line, record.data, self._headers(source, record)))
            source.moved = record.sequence
            self._moved += 1

    def _headers(self, source: "_SourceStream", record: StoredMessage) -> dict[str, str]:
        headers = {name: value for name, value in record.headers.items() if not name.startswith("Nats-")}
        headers[subjects.HEADER_MSG_ID] = record.headers.get(
            subjects.HEADER_MSG_ID, f"{source.stream.name}.{record.sequence}"
        )
        if self._moved < DOUBTFUL:
            headers[subjects.HEADER_SINCE] = record.stored_at.isoformat()
        return headers


class _SourceStream:
    """A stream to move from: what was read of it last, and up to where it has been moved."""

    def __init__(self, connection: NatsConnection, stream: subjects.StreamConfig, subject: str) -> None:
        self._connection = connection
        self.stream = stream
        self._subject = subject
        self.records: list[StoredMessage] = []
        self.has_more = False
        self.moved = 0
        self._cleared = 0

    @property
    def size(self) -> int:
        """How many were read."""
        return len(self.records)

    async def look(self) -> _SubjectState:
        """What the leader sees now."""
        info = await management.stream_info(self._connection, self.stream.name, subjects=self._subject)
        return _SubjectState(info.state.subjects.get(self._subject, 0), info.state.last_seq, info.ts)

    async def read(self, seen: _SubjectState) -> bool:
        """Read the oldest of what was `seen`. False when not all of that was there to be read: then nothing counts."""
        self.records, self.has_more = [], False
        if not seen.count:
            return True
        records, self.has_more = await direct_get.batch(
            self._connection, self.stream.name, self._subject, first_sequence=1, size=BATCH
        )
        self.records = [record for record in records if record.sequence <= seen.last]
        return bool(self.records) if self.has_more else len(self.records) == seen.count

    async def clear(self) -> None:
        """Remove what has been moved."""
        if self.moved > self._cleared:
            await management.purge_subject(self._connection, self.stream.name, self._subject, before=self.moved + 1)
            self._cleared = self.moved
