"""The overflow feeder: moves refused work back to the work stream as its destination drains.

One worker at a time, the holder of a lease, feeds a destination, so the messages come back in order. The overflow is
read without a consumer, so no destination waits behind another's backlog, and nothing remains at the server.

A batch is published at its target, and its removal confirmed before the next one is read. Any failure ends the feed. So
at most the oldest `BATCH` messages are doubtful to the next feed: the one before may have moved them. Of these it moves
none that is still due, and the copies of the others ask for a look at the results before they are sent. Nothing depends
on how long the server remembers a `Nats-Msg-Id`.
"""

import asyncio
import bisect
import collections
import contextlib
import hashlib
import itertools
import math
import random
import secrets
from collections.abc import Callable
from typing import Final

import structlog

from consumers.destinations.directory import ConfigurationDirectory
from consumers.queues.transfer import MessageTransfer, message_id
from consumers.worker.fair_scheduler import MAX_WAITING
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
"""Interval of the rounds, and the time after which no turn of a round begins."""
BATCH: Final = 100
LEAST_PART: Final = 16
"""Due messages up to which each destination of a tenant is fed, however many there are."""
MAX_CONCURRENT_FEEDS: Final = 8
"""Destinations that one worker feeds at a time."""
FED_PART: Final = 0.75
"""Part of a destination's room in the work stream that is fed: live deliveries have the rest."""
MAX_FED: Final = MAX_WAITING // 4
"""Due messages up to which all overflowed tenants together are fed. More of them would be shed again."""
SUBJECTS_AT_A_TIME: Final = 1000
"""Subjects of a scan that are sorted out before the loop gets a turn."""
SLOW_SCAN_S: Final = 0.1
MAX_SCAN_SHARE: Final = 0.05
"""Part of the time in which a long overflow is scanned. Between the scans, the last one counts."""

_log = structlog.get_logger(__name__)


class _FairTurns:
    """The turns of one tenant in a round: its overflowed destinations, from the one after the last round's on."""

    def __init__(self, tenant: str, destinations: list[str], last: str) -> None:
        self.tenant = tenant
        self.count = len(destinations)
        start = bisect.bisect(destinations, last)
        self._rest = itertools.chain(itertools.islice(destinations, start, None), itertools.islice(destinations, start))
        self._due: dict[str, int] | None = None
        self._part = 0
        """Due messages up to which a destination is fed."""
        self.left = 0
        """Messages that may still be fed in this round."""

    async def load(self, connection: NatsConnection, share: int) -> None:
        """Count the tenant's due messages, once in a round. Raises `JetStreamError`."""
        if self._due is not None:
            return
        pattern = subjects.requested(self.tenant, "*")
        due = (await management.stream_info(connection, streams.WORK.name, subjects=pattern)).state.subjects
        self._due, self._part = due, max(LEAST_PART, share // self.count)
        # What a slow receiver has due counts up to its part: its backlog does not keep the other destinations waiting.
        self.left = share - sum(min(count, self._part) for count in due.values())

    def next(self, limit: int) -> tuple[str, int] | None:
        """Return the next destination with room, and how much it may be fed; None at the end of the tenant's turns."""
        due = self._due or {}
        for destination in self._rest:
            room = min(limit, self._part) - due.get(subjects.requested(self.tenant, destination), 0)
            if room > 0 and self.left > 0:
                return destination, min(room, self.left)
        return None


class OverflowFeeder:
    """Moves messages from the overflow to the work stream while that has room.

    In a round the tenants take turns, and each turn feeds one destination. A tenant is fed up to its share of due work.
    """

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
        work_per_tenant: int = MAX_FED,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Create a feeder without leases.

        Args:
            is_circuit_open: A destination with an open circuit breaker is not fed.
            on_ordered: Called with each destination that has an ordered queue: the queue empties its overflow.
            work_per_tenant: Due messages of one tenant up to which it is fed.
        """
        self._connection = connection
        self._publisher = publisher
        self._leases = leases
        self._directory = directory
        self._holder = LeaseHolder(by=worker, run=secrets.token_hex(8))
        self._is_circuit_open = is_circuit_open
        self._on_ordered = on_ordered
        self._work_per_tenant = work_per_tenant
        self._interval_s = interval_s
        self._feeds: dict[str, _DestinationFeed] = {}
        self._overflow: dict[str, list[str]] = {}
        """The overflowed destinations of each tenant, sorted."""
        self._scan_at = 0.0
        self._last: dict[str, str] = {}
        """The destination of each tenant's last turn."""
        self.moved = 0
        """Messages moved back so far."""

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop` is set."""
        await run_every(self._interval_s, self.feed, stop, failure_event="feeder.failed")
        await self._release(set(self._feeds))

    async def feed(self) -> None:
        """Feed the overflowed destinations by turns, for one interval at most. Raises `JetStreamError`."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._scan_at:
            await self._scan()
        if not self._overflow:
            return
        config = (await management.stream_info(self._connection, streams.WORK.name)).config
        limit = math.ceil(config["max_msgs_per_subject"] * FED_PART)
        tenants = list(self._overflow.items())
        random.shuffle(tenants)  # with more tenants than a round has turns, each comes first at times
        turns = collections.deque(_FairTurns(name, found, self._last.get(name, "")) for name, found in tenants)
        share, until = max(1, min(self._work_per_tenant, MAX_FED // len(turns))), loop.time() + self._interval_s
        async with asyncio.TaskGroup() as group:
            for _ in range(MAX_CONCURRENT_FEEDS):
                group.create_task(self._take_turns(turns, share, limit, until))
        self._feeds = {key: feed for key, feed in self._feeds.items() if feed.is_held}

    async def _scan(self) -> None:
        """Find the overflowed destinations, and release those that are no longer overflowed. Bounds its own cost."""
        loop = asyncio.get_running_loop()
        began, pattern = loop.time(), subjects.overflow("*", "*")
        info = await management.stream_info(self._connection, streams.OVERFLOW.name, subjects=pattern)
        found: dict[str, list[str]] = {}
        for number, subject in enumerate(info.state.subjects, 1):
            tenant, destination = subjects.tenant_and_destination(subject)
            found.setdefault(tenant, []).append(destination)
            if number % SUBJECTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        for destinations in found.values():
            destinations.sort()
        self._overflow = found
        self._last = {tenant: last for tenant, last in self._last.items() if tenant in found}
        await self._release(
            {key for key in self._feeds if subjects.overflow(*key.split(".")) not in info.state.subjects}
        )
        took_s = loop.time() - began
        self._scan_at = began + took_s / MAX_SCAN_SHARE if took_s > SLOW_SCAN_S else 0.0

    async def _take_turns(self, turns: collections.deque[_FairTurns], share: int, limit: int, until: float) -> None:
        loop = asyncio.get_running_loop()
        while turns and loop.time() < until:
            tenant = turns.popleft()
            try:
                await tenant.load(self._connection, share)
            except JetStreamError as error:
                _log.warning("feeder.failed", tenant=tenant.tenant, error=str(error))
                continue
            turn = tenant.next(limit)
            if turn is None:
                continue
            turns.append(tenant)
            destination, room = turn
            self._last[tenant.tenant] = destination
            tenant.left -= room
            tenant.left += room - await self._feed_one(tenant.tenant, destination, room)

    async def _feed_one(self, tenant: str, destination: str, room: int) -> int:
        """Feed at most `room` messages of a destination. Returns how many."""
        if self._is_circuit_open(tenant, destination):
            return 0
        key, moved = f"{tenant}.{destination}", 0
        try:
            configured = await self._directory.destination(tenant, destination)
            if configured is not None and configured.ordering == "fifo":
                self._on_ordered(tenant, destination)
                return 0
            feed = self._feeds.get(key)
            if feed is None or not feed.is_held:
                feed = await self._start(tenant, destination)
            moved = 0 if feed is None else await feed.move(room)
        except LeaseLost:
            self._feeds.pop(key, None)  # the work stream was full for longer than the lease lasts
        except JetStreamError as error:
            _log.warning("feeder.failed", tenant=tenant, destination=destination, error=str(error))
            if key in self._feeds:  # what it moved is no longer certain, so the next one begins in doubt
                await self._release({key})
        self.moved += moved  # not before the await: other destinations are fed meanwhile
        return moved

    async def _start(self, tenant: str, destination: str) -> "_DestinationFeed | None":
        """Return a feed of the destination, or None while another worker feeds it."""
        key = f"{tenant}.{destination}"
        lease = Lease(self._leases, key, self._holder)
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
        self._source = subjects.overflow(tenant, destination)
        self._transfer = MessageTransfer(connection, publisher, lease, self._target)
        self._moved_before: set[tuple[str, bytes]] = set()
        self._moved_until = 0
        self._doubtful = BATCH
        """Messages, from the oldest on, that a feed before this one may have moved."""

    @property
    def is_held(self) -> bool:
        """True while no other worker can feed the destination."""
        return self._lease.is_held

    async def find_moved(self) -> None:
        """Read the due work: another worker may have moved a message, and died before it removed it here."""
        self._moved_until = (await management.stream_info(self._connection, streams.OVERFLOW.name)).state.last_seq
        async for record in direct_get.scan(self._connection, streams.WORK.name, self._target):
            self._moved_before.add(_content(record.headers.get(HEADER_MSG_ID, ""), record))

    async def move(self, room: int) -> int:
        """Move at most `room` messages, in their order. Returns how many.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        count = 0
        while count < room:
            await self._lease.renew()
            records, has_more = await direct_get.read_batch(
                self._connection, streams.OVERFLOW.name, self._source, first_sequence=1, size=min(room - count, BATCH)
            )
            moved = await self._move_all([record for record in records if not self._is_moved(record)])
            count += moved
            if moved < len(records) or not has_more:  # the work stream is full, or the replica lags
                break
        return count

    def _is_moved(self, record: StoredMessage) -> bool:
        return self._transfer.is_moved(streams.OVERFLOW.name, record)

    async def release(self) -> None:
        """Release the lease, if it is still held."""
        if self._lease.is_held:
            await self._lease.release()

    async def _move_all(self, records: list[StoredMessage]) -> int:
        """Move `records`, but for those that the work stream refuses. Returns how many."""
        stream, doubtful = streams.OVERFLOW.name, self._doubtful
        for record in filter(self._is_known, records):
            self._transfer.note_moved(stream, record)
        published = (
            self._transfer.publish(stream, record, is_doubtful=number < doubtful)
            for number, record in enumerate(records)
        )
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        moved = list(filter(self._is_moved, records))
        self._doubtful -= sum(map(self._is_moved, records[:doubtful]))
        await self._transfer.delete((stream, record.sequence) for record in moved)
        for error in outcomes:
            if error and not (isinstance(error, RejectedByServer) and error.err_code == SUBJECT_FULL):
                raise error
        return len(moved)

    def _is_known(self, record: StoredMessage) -> bool:
        content = _content(message_id(streams.OVERFLOW.name, record), record)
        return record.sequence <= self._moved_until and content in self._moved_before


def _content(message_id: str, record: StoredMessage) -> tuple[str, bytes]:
    """Return what a moved message and its copy have in common; another message may have the same id."""
    return message_id, hashlib.blake2b(record.data, digest_size=16).digest()
