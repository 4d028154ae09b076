"""The transfer into an ordered queue: what waits in the work stream and in the overflow, in the order of acceptance.

A message is published to the queue first, and then acknowledged or deleted, one after the other. Whatever is lost in
between leaves two copies. Each copy has `Oneprotect-Since`, so the queue looks for results before it sends one.

The work stream refuses messages at its limit, and these go to the overflow. Two streams can't be read at one instant.
So the work stream is read first, and the leader of the overflow is asked afterwards: if nothing is there, nothing older
than what was read is missing. Otherwise the server's timestamps say which message came first. In a cluster two servers
give the timestamps; the order across both streams is then as good as the servers' clocks.
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from msgspec import Struct

from consumers.queues.transfer import MessageTransfer
from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.lease import Lease
from messaging.message import Message
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects

BATCH: Final = 256
LAG_S: Final = 0.05
"""Pause after a read from a replica that lacks what the leader has."""
MAX_IN_HAND: Final = 1024


class _Batch(Struct, frozen=True):
    """The oldest messages of a subject."""

    records: list[StoredMessage]
    has_more: bool

    @property
    def last_time(self) -> datetime:
        """Stored time of the last message."""
        return self.records[-1].stored_at

    def has(self, newest: int | None) -> bool:
        """Return whether nothing is missing in front of the last message, or of the leader's `newest` sequence."""
        if newest is None:
            return False
        return self.has_more or not newest or (bool(self.records) and self.records[-1].sequence >= newest)


class _Lagging(Exception):
    """A replica that answered lacks messages, or one is on its way to it."""


class OrderedTransfer:
    """Moves one destination's messages into its ordered queue. The caller holds the destination's lease."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, tenant: str, destination: str
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._transfer = MessageTransfer(connection, publisher, lease, subjects.ordered(tenant, destination))
        self._subjects = {
            streams.WORK.name: subjects.requested(tenant, destination),
            streams.OVERFLOW.name: subjects.overflow(tenant, destination),
        }
        self._in_hand: dict[int, Message] = {}
        """Messages of the work stream that were delivered to this worker, by sequence."""
        self._to_delete: list[tuple[str, int]] = []

    def add(self, message: Message) -> None:
        """Keep a message of the work stream, which is acknowledged when it has been moved."""
        if len(self._in_hand) < MAX_IN_HAND:  # further ones are deleted by their sequence
            message.data = b""  # it is read from the stream, in its turn
            self._in_hand[message.sequence] = message

    def return_messages(self, delay_s: float) -> bool:
        """Return the messages that have not been moved to their stream. Returns True if there were some."""
        returned = bool(self._in_hand)
        for message in self._in_hand.values():
            message.nak(delay_s)
        self._in_hand.clear()
        return returned

    async def move(self) -> bool:
        """Move one batch at most. Returns whether there is more, or may be.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        expected = list(self._in_hand)
        try:
            work = await self._read(streams.WORK.name)
            overflowed = await self._newest(streams.OVERFLOW.name)  # asked after the work stream was read
            if overflowed == 0:
                due, has_more = [(streams.WORK.name, record) for record in work.records], work.has_more
            else:
                due, has_more = await self._merge(overflowed)
            await self._move_all(due)
            if not has_more:
                await self._drop_removed(expected)
        except _Lagging:
            await asyncio.sleep(LAG_S)
            return True
        return has_more

    async def _merge(self, overflowed: int | None) -> tuple[list[tuple[str, StoredMessage]], bool]:
        """Return what can be moved from both streams, in order, and whether there is more. Raises `_Lagging`."""
        overflow = await self._read(streams.OVERFLOW.name)
        if not overflow.has(overflowed):
            raise _Lagging
        newest = await self._newest(streams.WORK.name)  # what is older than an overflowed message is in `work`
        work = await self._read(streams.WORK.name)
        if not work.has(newest):
            raise _Lagging
        is_whole = overflow.has(await self._newest(streams.OVERFLOW.name))
        if not (is_whole or overflow.records):
            raise _Lagging
        until_work = work.last_time if work.has_more else None
        until_overflow = overflow.last_time if overflow.has_more or not is_whole else None
        due = (_until(until_overflow, streams.WORK.name, work), _until(until_work, streams.OVERFLOW.name, overflow))
        merged = list(heapq.merge(*due, key=_stored_at))  # within a stream, its own order counts
        if not merged and overflow.records and work.records:  # a server's clock went back
            merged = [
                min((streams.WORK.name, work.records[0]), (streams.OVERFLOW.name, overflow.records[0]), key=_stored_at)
            ]
        return merged, until_work is not None or until_overflow is not None

    async def _read(self, stream: str) -> _Batch:
        subject = self._subjects[stream]
        return _Batch(*await direct_get.read_batch(self._connection, stream, subject, first_sequence=1, size=BATCH))

    async def _newest(self, stream: str) -> int | None:
        return await self._publisher.last_sequence(self._subjects[stream])

    async def _move_all(self, due: list[tuple[str, StoredMessage]]) -> None:
        try:
            for stream, record in due:
                await self._move(stream, record)
        finally:
            to_delete, self._to_delete = self._to_delete, []
            await self._transfer.delete(to_delete)

    async def _move(self, stream: str, record: StoredMessage) -> None:
        await self._transfer.publish(stream, record)
        message = self._in_hand.pop(record.sequence, None) if stream == streams.WORK.name else None
        if message is None:
            self._to_delete.append((stream, record.sequence))
        else:
            message.ack()

    async def _drop_removed(self, expected: list[int]) -> None:
        """Drop the messages in hand that are no longer in the stream. Raises `_Lagging` if some may be."""
        missing = [sequence for sequence in expected if sequence in self._in_hand]
        if missing:
            newest = await self._newest(streams.WORK.name)
            if newest is None or newest >= min(missing):
                raise _Lagging
            for sequence in missing:
                self._in_hand.pop(sequence).ack()


def _until(last: datetime | None, stream: str, batch: _Batch) -> Iterator[tuple[str, StoredMessage]]:
    """Return the messages stored until then, each with its stream."""
    due = itertools.takewhile(lambda record: last is None or record.stored_at <= last, batch.records)
    return ((stream, record) for record in due)


def _stored_at(entry: tuple[str, StoredMessage]) -> datetime:
    return entry[1].stored_at
