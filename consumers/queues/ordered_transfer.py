"""The transfer into an ordered queue: what waits in the work stream and in the overflow, in the order of acceptance.

A message is published to the queue first, and then acknowledged or deleted, one after the other. Whatever is lost in
between leaves two copies. Each copy has `Oneprotect-Since`, so the queue looks for results before it sends one.

A message of the work stream is moved only when no other worker can have it in hand: it may be in flight, from before
the destination became an ordered one. It is in this worker's hand, or the worker that had it has handed it over. The
transfer waits for the first message that is neither, until that has been handed over or settled.

The work stream refuses messages at its limit, and these go to the overflow. Two streams can't be read at one instant.
So the work stream is read first, and the leader of the overflow is asked afterwards: if nothing is there, nothing older
than what was read is missing. Otherwise the server's timestamps say which message came first. In a cluster two servers
give the timestamps; the order across both streams is then as good as the servers' clocks.
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from consumers.attempts import leader_reads
from consumers.queues.transfer import MAX_MOVED, MessageTransfer
from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.client.term import clock
from messaging.direct_get import StoredMessage
from messaging.lease import Lease
from messaging.message import Message
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.control_messages import HandedOver

BATCH: Final = 256
LAG_S: Final = 0.05
"""Pause after a read from a replica that lacks what the leader has."""
REMOVED_AT_A_TIME: Final = 32
"""Messages that are removed together: the queue sends none of them before."""
MAX_IN_HAND: Final = 1024
MAX_HANDED_OVER: Final = 16_384
MIN_NAK_DELAY_S: Final = 1.0
NAK_DELAY_S: Final = 2.0
"""Pause of a message that is handed over. It grows with each delivery, up to the rest of the message's term.

A longer pause would have a time in which nothing may move the message: the server may not have received the pause.
"""
MAX_NAK_DELAY_S: Final = 10.0
MARGIN_S: Final = 0.5
"""Part of that pause in which the message is not moved: two workers know the server's time a little differently."""
LOOK_S: Final = 0.25
"""Interval of looks whether the message is gone that is next, and that another worker may have in hand."""


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
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        lease: Lease,
        tenant: str,
        destination: str,
        now: Callable[[], datetime],
    ) -> None:
        """`now` returns the server's time."""
        self._connection = connection
        self._now = now
        self._publisher = publisher
        self._transfer = MessageTransfer(connection, publisher, lease, subjects.ordered(tenant, destination))
        self._subjects = {
            streams.WORK.name: subjects.requested(tenant, destination),
            streams.OVERFLOW.name: subjects.overflow(tenant, destination),
        }
        self._in_hand: dict[int, Message] = {}
        """Messages of the work stream that were delivered to this worker, by sequence."""
        self._handed_over: dict[int, datetime] = {}
        """The server's time until which no worker has the message, by sequence."""
        self._next = 0
        """Sequence of the message that is next, and that another worker may have in hand."""
        self._is_next_free = asyncio.Event()
        self._published: list[tuple[str, StoredMessage]] = []
        """Messages that the queue has, and that are not removed from their stream yet."""
        self._removed: OrderedDict[tuple[str, int], datetime] = OrderedDict()
        """Stored times of removed messages: a recreated stream counts from 1 again."""

    def add(self, message: Message) -> None:
        """Keep a message of the work stream, which is acknowledged when it has been moved."""
        if len(self._in_hand) >= MAX_IN_HAND and message.sequence != self._next:
            self.note(hand_over([message], NAK_DELAY_S, self._now()))
            return
        message.data = b""  # it is read from the stream, in its turn
        self._in_hand[message.sequence] = message
        self._notice(message.sequence)

    def note(self, handed: HandedOver) -> None:
        """Note what other workers have handed over."""
        if len(self._handed_over) >= MAX_HANDED_OVER:
            now = self._now()
            self._handed_over = {sequence: until for sequence, until in self._handed_over.items() if now < until}
        for sequence in handed.sequences:
            if len(self._handed_over) < MAX_HANDED_OVER or sequence == self._next:
                self._handed_over[sequence] = handed.until
                self._notice(sequence)

    def _notice(self, sequence: int) -> None:
        if sequence == self._next:
            self._is_next_free.set()

    def return_messages(self, delay_s: float) -> HandedOver | None:
        """Hand over the messages that have not been moved. Returns None if there are none."""
        if not self._in_hand:
            return None
        handed = hand_over(self._in_hand.values(), delay_s, self._now())
        self._in_hand.clear()
        return handed

    def has_moved(self, place: str) -> bool:
        """Return whether this worker has moved and removed the message at `place`, `<stream>.<sequence>`."""
        stream, _, sequence = place.rpartition(".")
        return sequence.isdecimal() and len(sequence) < 19 and (stream, int(sequence)) in self._removed

    async def move(self) -> bool:
        """Move one batch at most. Returns whether there is more, or may be.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        if await self._waits_for_next():
            return True
        expected = list(self._in_hand)
        try:
            work = await self._read(streams.WORK.name)
            overflowed = await self._newest(streams.OVERFLOW.name)  # asked after the work stream was read
            if overflowed == 0:
                due, has_more = [(streams.WORK.name, record) for record in work.records], work.has_more
            else:
                due, has_more = await self._merge(overflowed)
            await self._move_all(due)
            has_more = has_more or self._next > 0
            if not has_more:
                await self._drop_removed(expected)
        except _Lagging:
            await asyncio.sleep(LAG_S)
            return True
        return has_more

    async def _waits_for_next(self) -> bool:
        """Wait a moment for the message that is next, if it is not this worker's. Returns whether it still is not."""
        if not self._next:
            return False
        try:
            async with asyncio.timeout(LOOK_S):
                await self._is_next_free.wait()
        except TimeoutError:
            if await leader_reads.get(self._connection, streams.WORK.name, self._next) is not None:
                return True
        self._next = 0
        return False

    def _is_free(self, sequence: int) -> bool:
        """Return whether no other worker can have a message of the work stream in hand."""
        message = self._in_hand.get(sequence)
        if message is not None and message.is_held():
            return True
        self._in_hand.pop(sequence, None)
        until = self._handed_over.get(sequence)
        return until is not None and self._now() < until

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
        """Move the messages up to the first one that another worker may have in hand."""
        try:
            for stream, record in due:
                if self._removed.get((stream, record.sequence)) == record.stored_at:
                    continue  # a replica still had it
                if stream == streams.WORK.name and not self._is_free(record.sequence):
                    self._wait_for(record.sequence)
                    break
                await self._transfer.publish(stream, record)
                self._published.append((stream, record))
                if len(self._published) == REMOVED_AT_A_TIME:
                    await self._remove()
        finally:
            await self._remove()

    def _wait_for(self, sequence: int) -> None:
        self._next = sequence
        self._is_next_free.clear()

    async def _remove(self) -> None:
        """Remove what the queue has, except what another worker may have received meanwhile."""
        published, self._published = self._published, []
        to_delete: list[tuple[str, StoredMessage]] = []
        for stream, record in published:
            message = self._in_hand.get(record.sequence) if stream == streams.WORK.name else None
            if stream == streams.WORK.name and not self._is_free(record.sequence):
                continue
            if message is not None and message.is_held():
                message.ack()
                del self._in_hand[record.sequence]
                self._note_removed(stream, record)
            else:
                to_delete.append((stream, record))
        await self._transfer.delete((stream, record.sequence) for stream, record in to_delete)
        for stream, record in to_delete:
            self._handed_over.pop(record.sequence, None)
            self._note_removed(stream, record)

    def _note_removed(self, stream: str, record: StoredMessage) -> None:
        self._removed[stream, record.sequence] = record.stored_at
        if len(self._removed) > MAX_MOVED:
            self._removed.popitem(last=False)

    async def _drop_removed(self, expected: list[int]) -> None:
        """Drop the messages in hand that are no longer in the stream. Raises `_Lagging` if some may be."""
        missing = [sequence for sequence in expected if sequence in self._in_hand]
        if missing:
            newest = await self._newest(streams.WORK.name)
            if newest is None or newest >= min(missing):
                raise _Lagging
            for sequence in missing:
                self._in_hand.pop(sequence).ack()


def hand_over(messages: Iterable[Message], delay_s: float, now: datetime) -> HandedOver:
    """Return messages to their stream for `delay_s` at most, and say until when the server keeps them.

    `now` is the server's time.
    """
    held = [message for message in messages if message.is_held()]
    left_s = min((message.term.until - clock() for message in held), default=0.0)
    delay_s = min(delay_s, max(left_s, MIN_NAK_DELAY_S))
    for message in held:
        message.nak(delay_s)
    until = now + timedelta(seconds=min(delay_s, left_s) - MARGIN_S)
    return HandedOver(sequences=tuple(message.sequence for message in held), until=until)


def _until(last: datetime | None, stream: str, batch: _Batch) -> Iterator[tuple[str, StoredMessage]]:
    """Return the messages stored until then, each with its stream."""
    due = itertools.takewhile(lambda record: last is None or record.stored_at <= last, batch.records)
    return ((stream, record) for record in due)


def _stored_at(entry: tuple[str, StoredMessage]) -> datetime:
    return entry[1].stored_at
