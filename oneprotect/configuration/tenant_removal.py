"""Removal of a tenant: its configuration, its messages in every stream, and what processes have in memory.

A marker in a bucket closes the API and the NATS service for the tenant first. Then everything is deleted, again and
again until a whole pass finds nothing and no consumer handles a message of the tenant: an attempt in flight still
stores its result. An interrupted removal leaves the marker, and continues when it is started again.

Streams with consumers are not purged: a purge can make a consumer skip messages of other tenants (nats-server issue
5727). Their messages are deleted one by one.
"""

import asyncio
import contextlib
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec import Struct

from consumers.credentials.control_client import ask_all
from consumers.replay.service import ReplayService
from consumers.replay.store import ReplayError
from messaging import direct_get, management
from messaging.audit_events import publish_audit_event
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, NotFound
from messaging.kv import KvBucket, KvTable
from messaging.kv_cache import REPLICA_LAG_S, KvCache
from messaging.periodic import pause
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.control_messages import ForgetReply, ForgetTenant
from schemas.events import ConfigChanged, ConfigChangedData

SOURCE: Final = "/oneprotect/tenants"
PAUSE_S: Final = 1.0
QUIET_S: Final = 5.0
"""Time without anything of the tenant before its removal is complete: leases expire after four seconds."""
MAX_DURATION_S: Final = 3600.0
DELETES_AT_A_TIME: Final = 64
READ_AGAIN_S: Final = 60.0 - REPLICA_LAG_S
_RETRY_S: Final = 1.0

_PURGED: Final = frozenset(
    {streams.ATTEMPTS.name, streams.FAILED.name, streams.DELIVERED.name, streams.QUARANTINE.name}
)
_SWEPT_BUCKETS: Final = tuple(bucket for bucket in streams.TENANT_BUCKETS if bucket is not streams.REMOVALS)

Counts = dict[str, int]
"""Messages by stream, and keys by bucket, of those that have any."""

_log = structlog.get_logger(__name__)


class RemovalMarker(Struct, frozen=True, kw_only=True):
    """The mark of a tenant that is being removed."""

    by: str
    started_at: datetime


class TenantRemovalProgress(Struct, frozen=True, kw_only=True):
    """The state of a removal after a pass: what was deleted so far, and the messages that consumers still handle."""

    deleted: Counts
    in_hand: int


class RemovalIncomplete(Exception):
    """Something of the tenant keeps arriving."""

    def __init__(self) -> None:
        super().__init__(
            "data of the tenant keeps arriving; stop its trusted publishers and the replays of operators, then run the "
            "command again: it continues"
        )


class RemovalMarkers:
    """The tenants that are being removed, in memory."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._rows = KvCache(KvTable(bucket, RemovalMarker), max_age_s=math.inf, is_whole=True)
        self._stale = asyncio.Event()
        connection.on_reconnect(self.forget)

    async def run(self) -> None:
        """Follow changes, and read all markers every minute, until cancelled."""
        await self._rows.start()
        while True:
            self._stale.clear()
            try:
                await self._rows.read_all(">")
            except JetStreamError as error:
                _log.warning("removals.unreadable", error=str(error), next_try_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
            else:
                await pause(READ_AGAIN_S, self._stale)

    async def forget(self) -> None:
        """Read all markers again: announcements may have been lost."""
        self._rows.expire(keep_announced=False)
        self._stale.set()

    def has(self, tenant: str) -> bool:
        """Return true while the tenant is being removed."""
        return self._rows.peek(tenant) is not None


class TenantRemoval:
    """Removes tenants. Every method raises `JetStreamError` when NATS is unavailable."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, replays: ReplayService, markers: KvBucket
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._replays = replays
        self._markers = KvTable(markers, RemovalMarker)

    async def count(self, tenant: str) -> Counts:
        """Return what there is of a tenant, without the audit events of its removal."""
        counts: Counts = {}
        for stream, patterns in subjects.held_for(tenant).items():
            with contextlib.suppress(NotFound):  # the archive is optional
                counts[stream] = sum([await self._count_subjects(stream, pattern, tenant) for pattern in patterns])
        for bucket in _SWEPT_BUCKETS:
            patterns = _key_patterns(bucket, tenant)
            stream = f"KV_{bucket.name}"
            counts[bucket.name] = sum(
                [await direct_get.count(self._connection, stream, pattern) for pattern in patterns]
            )
        return {name: count for name, count in counts.items() if count}

    async def run(
        self, tenant: str, *, by: str, on_pass: Callable[[TenantRemovalProgress], None] = lambda _: None
    ) -> Counts:
        """Delete everything of a tenant, and return what was deleted. Raises `RemovalIncomplete`."""
        await self._mark(tenant, by)
        await self._cancel_replays(tenant, by)
        deleted: Counts = {}
        clock = asyncio.get_running_loop().time
        started = clock()
        quiet_since = math.inf
        while clock() - quiet_since < QUIET_S:
            in_hand = await self._forget_in_consumers(tenant)
            found = await self._sweep(tenant)
            for name, count in found.items():
                deleted[name] = deleted.get(name, 0) + count
            on_pass(TenantRemovalProgress(deleted=deleted, in_hand=in_hand))
            is_quiet = not found and not in_hand and not await self.count(tenant)
            quiet_since = min(quiet_since, clock()) if is_quiet else math.inf
            if clock() - started > MAX_DURATION_S:
                raise RemovalIncomplete
            await asyncio.sleep(PAUSE_S)
        await self._unmark(tenant)
        return deleted

    async def _mark(self, tenant: str, by: str) -> None:
        now = datetime.now(UTC)
        await self._markers.put(tenant, RemovalMarker(by=by, started_at=now))
        data = ConfigChangedData(kind="tenant", name=tenant, action="delete", by=by)
        event = ConfigChanged(
            specversion="1.0", id=str(uuid.uuid4()), source=SOURCE, time=now, tenant=tenant, data=data
        )
        await publish_audit_event(self._publisher, "config.changed", f"tenant.{tenant}", event)

    async def _unmark(self, tenant: str) -> None:
        await self._markers.bucket.delete(tenant)
        await management.purge_pattern(
            self._connection, f"KV_{streams.REMOVALS.name}", f"$KV.{streams.REMOVALS.name}.{tenant}"
        )

    async def _cancel_replays(self, tenant: str, by: str) -> None:
        for replay in await self._replays.index.unfinished(tenant):
            with contextlib.suppress(ReplayError):  # it has just ended
                await self._replays.cancel(tenant, replay, by=by)

    async def _forget_in_consumers(self, tenant: str) -> int:
        """Return the number of the tenant's messages that consumers handle."""
        request = ForgetTenant(tenant=tenant)
        replies = await ask_all(self._connection, subjects.FORGET, request, ForgetReply)
        return sum(reply.in_hand for reply in replies)

    async def _sweep(self, tenant: str) -> Counts:
        """Delete what there is now, and return what was deleted. Configuration is first, so that nothing new starts."""
        counts: Counts = {}
        for bucket in _SWEPT_BUCKETS:
            counts[bucket.name] = await self._empty_bucket(bucket, tenant)
        for name in await management.consumer_names(self._connection, streams.ORDERED.name):
            if name.startswith(streams.ordered_consumer(tenant, "")):
                with contextlib.suppress(NotFound):
                    await management.delete_consumer(self._connection, streams.ORDERED.name, name)
        for stream, patterns in subjects.held_for(tenant).items():
            with contextlib.suppress(NotFound):
                counts[stream] = sum([await self._empty_stream(stream, pattern, tenant) for pattern in patterns])
        return {name: count for name, count in counts.items() if count}

    async def _empty_bucket(self, spec: streams.BucketConfig, tenant: str) -> int:
        bucket = KvBucket(self._connection, self._publisher, spec)
        if spec.announced:  # each cache has to hear of it; a purge is not announced
            keys = [entry.key async for entry in bucket.read(f"{tenant}.>")]
            for start in range(0, len(keys), DELETES_AT_A_TIME):
                await asyncio.gather(*map(bucket.delete, keys[start : start + DELETES_AT_A_TIME]))
        stream, patterns = f"KV_{spec.name}", _key_patterns(spec, tenant)
        return sum([await management.purge_pattern(self._connection, stream, pattern) for pattern in patterns])

    async def _empty_stream(self, stream: str, pattern: str, tenant: str) -> int:
        if stream in _PURGED:
            return await management.purge_pattern(self._connection, stream, pattern)
        return await self._delete_one_by_one(stream, pattern, tenant)

    async def _delete_one_by_one(self, stream: str, pattern: str, tenant: str) -> int:
        count, batch = 0, list[int]()
        async for record in direct_get.scan(self._connection, stream, pattern):
            if record.subject == _audit_subject(tenant):
                continue
            batch.append(record.sequence)
            if len(batch) == DELETES_AT_A_TIME:
                count += await self._delete(stream, batch)
                batch.clear()
        return count + await self._delete(stream, batch)

    async def _delete(self, stream: str, batch: list[int]) -> int:
        deletions = (management.delete_message(self._connection, stream, sequence) for sequence in batch)
        return sum(await asyncio.gather(*deletions))

    async def _count_subjects(self, stream: str, pattern: str, tenant: str) -> int:
        info = await management.stream_info(self._connection, stream, subjects=pattern)
        return sum(_without(info.state.subjects, _audit_subject(tenant)).values())


def _key_patterns(bucket: streams.BucketConfig, tenant: str) -> tuple[str, str]:
    """Return the subjects of the keys `<tenant>.…`, and of the lease of the tenant's replays."""
    return f"$KV.{bucket.name}.{tenant}.>", f"$KV.{bucket.name}.{tenant}"


def _audit_subject(tenant: str) -> str:
    return subjects.operational("config.changed", tenant, f"tenant.{tenant}")


def _without(counts: Mapping[str, int], subject: str) -> Mapping[str, int]:
    return {name: count for name, count in counts.items() if name != subject}
