"""The feeder: brings work that was refused back as its destination drains.

A destination's overflow is fed by one worker at a time, whoever has its lease, so that it comes back in its order. It
is read without a consumer: nobody stands behind another's flood, nothing is left at the server when it is empty, and a
worker that takes over from one that died begins with the oldest again. What that one had moved and not yet removed, the
work stream knows by its `Nats-Msg-Id`, or still holds.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from consumers.destinations.directory import ConfigurationDirectory
from consumers.queues.transfer import SubjectTransfer
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.direct_get import StoredMessage
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder, LeaseLost
from messaging.periodic import run_every
from messaging.publisher import JetStreamPublisher
from schemas import subjects

INTERVAL_S: Final = 1.0
BATCH: Final = 100
MAX_CONCURRENT_FEEDS: Final = 8
"""Destinations that are fed at a time."""

_log = structlog.get_logger(__name__)


class _SubjectCounts(msgspec.Struct, frozen=True):
    """Messages by subject, and how many of one subject the stream takes (-1: any number)."""

    subjects: dict[str, int]
    cap: int


class OverflowFeeder:
    """Moves messages from the overflow to the work stream while that takes them."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        *,
        leases: KvBucket,
        directory: ConfigurationDirectory,
        worker: str,
        is_closed: Callable[[str, str], bool],
        on_fifo: Callable[[str, str], object],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`is_closed`: whether a destination is left alone for now, so that there is no sense in feeding it.

        `on_fifo` is called with each destination that takes its deliveries in order: its line empties its overflow.
        """
        self._connection = connection
        self._publisher = publisher
        self._leases = leases
        self._directory = directory
        self._worker = worker
        self._is_closed = is_closed
        self._on_fifo = on_fifo
        self._interval_s = interval_s
        self._feeding: dict[str, _DestinationFeed] = {}
        self._at_a_time = asyncio.Semaphore(MAX_CONCURRENT_FEEDS)
        self.moved = 0
        """Messages brought back so far."""

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop` is set."""
        await run_every(self._interval_s, self.feed, stop, failure_event="feeder.failed")
        await self._let_go(set(self._feeding))

    async def feed(self) -> None:
        """One round over all destinations that have overflowed."""
        overflowed = await self._counts(subjects.OVERFLOW, subjects.overflow("*", "*"))
        waiting = {subject.split(".", 3)[3] for subject in overflowed.subjects}
        await self._let_go(self._feeding.keys() - waiting)
        if waiting:
            due = await self._counts(subjects.WORK, subjects.requested("*", "*"))
            await asyncio.gather(*(self._feed_one(key, due) for key in waiting))

    async def _counts(self, stream: subjects.StreamConfig, pattern: str) -> "_SubjectCounts":
        info = await management.stream_info(self._connection, stream.name, subjects=pattern)
        return _SubjectCounts(info.state.subjects, int(info.config["max_msgs_per_subject"]))

    async def _feed_one(self, key: str, due: _SubjectCounts) -> None:
        tenant, destination = key.split(".")
        room = due.cap - due.subjects.get(subjects.requested(tenant, destination), 0)
        if room <= 0 or self._is_closed(tenant, destination):
            return
        configured = await self._directory.destination(tenant, destination)
        if configured is not None and configured.ordering == "fifo":
            self._on_fifo(tenant, destination)
            return
        async with self._at_a_time:
            try:
                await self._move(tenant, destination, room)
            except LeaseLost:
                self._feeding.pop(key, None)  # there was no room for so long that it ran out
            except JetStreamError as error:
                _log.warning("feeder.failed", tenant=tenant, destination=destination, error=str(error))

    async def _move(self, tenant: str, destination: str, room: int) -> None:
        key = f"{tenant}.{destination}"
        feeding = self._feeding.get(key)
        if feeding is None:
            feeding = await self._begin(tenant, destination)
            if feeding is None:
                return
            self._feeding[key] = feeding
        count = await feeding.move(room)
        self.moved += count  # only now: others are fed meanwhile

    async def _begin(self, tenant: str, destination: str) -> "_DestinationFeed | None":
        """Take a destination over, unless another worker feeds it."""
        holder = LeaseHolder(by=self._worker, run=secrets.token_hex(8))
        lease = Lease(self._leases, f"{tenant}.{destination}", holder)
        if await lease.take() is not None:
            return None
        feeding = _DestinationFeed(self._connection, self._publisher, lease, tenant, destination)
        await feeding.find_moved()
        return feeding

    async def _let_go(self, keys: set[str]) -> None:
        for key in keys:
            with contextlib.suppress(JetStreamError):
                await self._feeding.pop(key).release()


class _DestinationFeed:
    """One destination's overflow, as long as this worker feeds it."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, tenant: str, destination: str
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._target = subjects.requested(tenant, destination)
        source = subjects.overflow(tenant, destination)
        self._transfer = SubjectTransfer(connection, publisher, lease, stream=subjects.OVERFLOW.name, source=source)
        self._moved_before: set[str] = set()

    async def find_moved(self) -> None:
        """Read the ids of due work: another worker may have moved a message, and died before it removed it here."""
        async for record in direct_get.scan(self._connection, subjects.WORK.name, self._target):
            self._moved_before.add(record.headers.get(subjects.HEADER_MSG_ID, ""))

    async def move(self, room: int) -> int:
        """Move at most `room` messages, in their order. Returns how many.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        count = 0
        while count < room:
            await self._lease.renew()
            records, has_more = await self._transfer.read(min(room - count, BATCH))
            moved = await self._move_all(records)
            count += moved
            if moved < len(records) or not has_more:
                break
        return count

    async def release(self) -> None:
        """Release the lease, if it is still held."""
        if self._lease.is_held:
            await self._lease.release()

    async def _move_all(self, records: list[StoredMessage]) -> int:
        """Move `records` up to the first that the work stream refuses, as none must overtake it."""
        moved = 0
        try:
            for record in records:
                if self._transfer.message_id(record) in self._moved_before:
                    self._transfer.skip(record)
                else:
                    await self._transfer.publish(record, self._target)
                moved += 1
        except RejectedByServer as error:
            if error.err_code != SUBJECT_FULL:  # else another publisher was quicker
                raise
        finally:
            await self._transfer.remove_moved()
        return moved
