"""Transfer into an ordered queue: what waits for a destination with `ordering: fifo`, in the order of publishing.

A producer publishes to the work stream, and to the overflow when the work stream refuses. So one destination's messages
are in two streams, and the server's timestamps say which came first. Two streams can't be read at one instant, so
messages newer than an instant before both were read wait for the next transfer. In a cluster two servers give the
timestamps; the order across both streams is then as good as the servers' clocks.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from consumers.queues.transfer import SubjectTransfer
from messaging import management
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.lease import Lease
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.headers import HEADER_SINCE

BATCH: Final = 256
UNCERTAIN_MESSAGES: Final = 1024
"""The first messages that a new holder of the lease moves: the holder before may have moved, or sent, them already."""
_INSTANT: Final = timedelta(microseconds=1)


class _SubjectState(msgspec.Struct, frozen=True):
    """A subject as the stream's leader sees it: messages, the stream's last sequence, and the time of the look."""

    count: int
    last: int
    at: datetime


class OrderedTransfer:
    """Moves one destination's messages into its ordered queue. The caller holds the destination's lease."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, tenant: str, destination: str
    ) -> None:
        self._target = subjects.ordered(tenant, destination)
        work, overflow = subjects.requested(tenant, destination), subjects.overflow(tenant, destination)
        self._work = _OrderedSource(connection, publisher, lease, stream=streams.WORK.name, source=work)
        self._overflow = _OrderedSource(connection, publisher, lease, stream=streams.OVERFLOW.name, source=overflow)
        self._moved = 0

    async def move(self) -> bool:
        """Move one batch at most. Returns whether there is more, or may be.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        cut = (await self._work.state()).at - _INSTANT
        overflow, work = await self._overflow.state(), await self._work.state()
        if not overflow.count and not work.count:
            return False
        if not (await self._overflow.read_seen(overflow) and await self._work.read_seen(work)):
            return True  # the replica that answered lags behind
        sources = (self._work, self._overflow)
        for source in sources:
            if source.has_more:
                cut = min(cut, source.records[-1].stored_at)
        due = sorted(
            (record.stored_at, place, record)
            for place, source in enumerate(sources)
            for record in source.records
            if record.stored_at <= cut
        )
        try:
            for _, place, record in due:
                await self._move_one(sources[place], record)
        finally:
            await self._work.remove_moved()
            await self._overflow.remove_moved()
        return any(source.has_more for source in sources) or len(due) < sum(len(source.records) for source in sources)

    async def _move_one(self, source: "_OrderedSource", record: StoredMessage) -> None:
        since = {HEADER_SINCE: record.stored_at.isoformat()} if self._moved < UNCERTAIN_MESSAGES else None
        self._moved += await source.publish(record, self._target, since)


class _OrderedSource(SubjectTransfer):
    """A source subject with what was read of it last."""

    records: list[StoredMessage]
    has_more: bool

    async def state(self) -> _SubjectState:
        """Return what the stream's leader sees now."""
        info = await management.stream_info(self._connection, self.stream, subjects=self.source)
        return _SubjectState(info.state.subjects.get(self.source, 0), info.state.last_seq, info.ts)

    async def read_seen(self, seen: _SubjectState) -> bool:
        """Read the oldest of what was `seen`. False when some of it was not there to be read: then nothing counts."""
        self.records, self.has_more = [], False
        if not seen.count:
            return True
        records, self.has_more = await self.read(BATCH)
        self.records = [record for record in records if record.sequence <= seen.last]
        return bool(self.records) if self.has_more else len(self.records) == seen.count
