"""The overflow feeder: moves refused work back to the work stream as its destination drains.

One worker at a time, the holder of a lease, feeds a destination, so the messages come back in order. The overflow is
read without a consumer, so no destination waits behind another's backlog, and nothing remains at the server. A worker
that takes over from a dead one starts with the oldest message again. Messages that the dead worker moved and did not
remove are recognized by the work stream, by their `Nats-Msg-Id`, or are still in it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Final

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
from schemas import streams, subjects
from schemas.headers import HEADER_MSG_ID

INTERVAL_S: Final = 1.0
BATCH: Final = 100
MAX_CONCURRENT_FEEDS: Final = 8
"""Destinations that one worker feeds at a time."""

_log = structlog.get_logger(__name__)


class OverflowFeeder:
    """Moves messages from the overflow to the work stream while that has room."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        *,
        leases: KvBucket,
        directory: ConfigurationDirectory,
        worker: str,
        is_circuit_open: Callable[[str, str], bool],
        on_ordered: Callable[[str, str], object],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`is_circuit_open`: a destination with an open circuit breaker is not fed.

        `on_ordered` is called with each destination that has an ordered queue: the queue empties its overflow.
        """
        self._connection = connection
        self._publisher = publisher
        self._leases = leases
        self._directory = directory
        self._worker = worker
        self._is_circuit_open = is_circuit_open
        self._on_ordered = on_ordered
        self._interval_s = interval_s
        self._feeds: dict[str, _DestinationFeed] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_FEEDS)
        self.moved = 0
        """Messages moved back so far."""

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop` is set."""
        await run_every(self._interval_s, self.feed, stop, failure_event="feeder.failed")
        await self._release(set(self._feeds))

    async def feed(self) -> None:
        """Feed each destination that has overflowed once. Raises `JetStreamError`."""
        pattern = subjects.overflow("*", "*")
        overflow = await management.stream_info(self._connection, streams.OVERFLOW.name, subjects=pattern)
        waiting = {subjects.lane_of(subject) for subject in overflow.state.subjects}
        await self._release(self._feeds.keys() - waiting)
        if not waiting:
            return
        pattern = subjects.requested("*", "*")
        work = await management.stream_info(self._connection, streams.WORK.name, subjects=pattern)
        limit = int(work.config["max_msgs_per_subject"])
        await asyncio.gather(
            *(
                self._feed_one(key, limit - work.state.subjects.get(subjects.requested(*key.split(".")), 0))
                for key in waiting
            )
        )

    async def _feed_one(self, key: str, room: int) -> None:
        tenant, destination = key.split(".")
        if room <= 0 or self._is_circuit_open(tenant, destination):
            return
        configured = await self._directory.destination(tenant, destination)
        if configured is not None and configured.ordering == "fifo":
            self._on_ordered(tenant, destination)
            return
        async with self._slots:
            try:
                feed = self._feeds.get(key) or await self._start(tenant, destination)
                count = 0 if feed is None else await feed.move(room)
                self.moved += count  # not before the await: other destinations are fed meanwhile
            except LeaseLost:
                self._feeds.pop(key, None)  # the work stream was full for longer than the lease lasts
            except JetStreamError as error:
                _log.warning("feeder.failed", tenant=tenant, destination=destination, error=str(error))

    async def _start(self, tenant: str, destination: str) -> "_DestinationFeed | None":
        """Return a feed of the destination, or None while another worker feeds it."""
        key = f"{tenant}.{destination}"
        lease = Lease(self._leases, key, LeaseHolder(by=self._worker, run=secrets.token_hex(8)))
        if await lease.acquire() is not None:
            return None
        feed = _DestinationFeed(self._connection, self._publisher, lease, tenant, destination)
        await feed.find_moved()
        self._feeds[key] = feed
        return feed

    async def _release(self, keys: set[str]) -> None:
        for key in keys:
            with contextlib.suppress(JetStreamError):
                await self._feeds.pop(key).release()


class _DestinationFeed:
    """The overflow of one destination, while this worker has its lease."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, tenant: str, destination: str
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._target = subjects.requested(tenant, destination)
        source = subjects.overflow(tenant, destination)
        self._transfer = SubjectTransfer(connection, publisher, lease, stream=streams.OVERFLOW.name, source=source)
        self._moved_before: set[str] = set()

    async def find_moved(self) -> None:
        """Read the ids of due work: another worker may have moved a message, and died before it removed it here."""
        async for record in direct_get.scan(self._connection, streams.WORK.name, self._target):
            self._moved_before.add(record.headers.get(HEADER_MSG_ID, ""))

    async def move(self, room: int) -> int:
        """Move at most `room` messages, in their order. Returns how many.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        count = 0
        while count < room:
            await self._lease.renew()
            records, has_more = await self._transfer.read(min(room - count, BATCH))
            if records and self._transfer.is_moved(records[-1]):
                # The stream was recreated, or its replica lags: then the server drops the duplicates.
                self._transfer.start_over()
                await self.find_moved()
                break
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
                    moved += 1
                else:
                    moved += await self._transfer.publish(record, self._target)
        except RejectedByServer as error:
            if error.err_code != SUBJECT_FULL:  # else another publisher was quicker
                raise
        finally:
            await self._transfer.remove_moved()
        return moved
