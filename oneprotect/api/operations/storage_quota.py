"""Storage of tenants: one that uses up its share is refused new deliveries, and its archive stays within a share.

What a consumer must store is never refused, since that would lose a delivery. So the doors of the API are the limit.

- Failed deliveries: their bytes are known exactly, seconds late.
- Waiting deliveries (due, overflow, ordered, scheduled): this process adds up each accepted byte. At a tenant's first
  delivery and at half of the limit, the sum is set again from an estimate of what waits: the number of the tenant's
  messages times the largest that this process has accepted, or times the average of its oldest ones if that is more.
  All bytes of these streams are an upper bound.
- All tenants together: where the NATS account has a limit, both limits shrink when it is nearly reached. The rest stays
  free, because consumers need room for results and failed deliveries before anything that waits can end.
- The archive has a limit for all tenants. When it is nearly full, the oldest deliveries of tenants beyond their share
  are removed first.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from msgspec import Struct

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, NotFound
from messaging.periodic import run_every
from messaging.stored_bytes import StoredBytes
from oneprotect.api.web.problems import Problem
from schemas import streams, subjects
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricRegistry, MetricSample

INTERVAL_S: Final = 5.0
ARCHIVE_FULL: Final = 0.75
"""The part of the archive's size from which shares are enforced."""
ROOM_SHORT: Final = 0.75
"""The used part of the room for waiting and failed deliveries from which a tenant may use `SHARE_OF_ROOM` of it."""
ROOM_USED_UP: Final = 0.95
"""The used part from which the API accepts no delivery."""
SHARE_OF_ROOM: Final = 1 / 16
SAMPLE: Final = 16
"""Messages of a tenant in a stream whose sizes are looked at."""
RETRY_AFTER_S: Final = 60
MAX_TENANTS: Final = 16_384
_WAITING: Final = (streams.WORK, streams.OVERFLOW, streams.ORDERED, streams.RETRIES)

_log = structlog.get_logger(__name__)


class StorageLimits(Struct, frozen=True, kw_only=True):
    """The limits of each tenant, in bytes; `archive_share`: the part of the archive."""

    waiting_bytes: int
    failed_bytes: int
    archive_share: float


class _Account(Struct):
    """The waiting deliveries of a tenant, as this process knows them."""

    used: int = 0
    largest: int = 0
    checked_at: float = float("-inf")
    is_checked: bool = False
    """Whether `used` includes what waited before this process started, and what other processes accepted."""


class StorageQuota:
    """The use of storage by each tenant, and the decision about new deliveries."""

    def __init__(self, connection: NatsConnection, limits: StorageLimits, counters: MetricRegistry) -> None:
        self._connection = connection
        self._limits = limits
        self._counters = counters
        self._share = math.inf
        """The bytes of each kind that a tenant may use at the moment, because all use the same room."""
        self._failed = StoredBytes(connection, streams.FAILED.name)
        self._archive = StoredBytes(connection, streams.DELIVERED.name)
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._checking: set[asyncio.Task[None]] = set()
        counters.add_source(self._samples)

    async def run(self) -> None:
        """Follow the failed and the archived deliveries until cancelled."""
        try:
            await run_every(INTERVAL_S, self._update, asyncio.Event(), failure_event="storage_quota.unknown")
        finally:
            for task in list(self._checking):
                task.cancel()

    def require_room(self, tenant: str, sizes: Sequence[int]) -> None:
        """Count the bytes of deliveries that are about to be stored. Raises `Problem` 507 beyond a limit."""
        if not self._share:
            raise self._refuse("storage", "The storage for deliveries is nearly full. Retry later.")
        size = sum(sizes)
        failed, limit = self._failed.of(tenant), self._limit(self._limits.failed_bytes)
        if failed >= limit:
            detail = f"The tenant stores {failed:,} of {limit:,} bytes of failed deliveries, kept for 30 days."
            raise self._refuse("failed", f"{detail} Repair the receivers, or have an operator raise the limit.")
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
            if len(self._accounts) > MAX_TENANTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(tenant)
        account.largest = max(account.largest, *sizes)
        limit = self._limit(self._limits.waiting_bytes)
        if not account.is_checked or account.used > limit // 2:
            self._begin_check(tenant, account)
        if account.used + size > limit:
            detail = f"The tenant stores about {account.used:,} of {limit:,} bytes of waiting deliveries."
            raise self._refuse("waiting", f"{detail} Retry when its receivers have accepted some.")
        account.used += size

    def _limit(self, configured: int) -> int:
        return int(min(configured, self._share))

    def _refuse(self, quota: str, detail: str) -> Problem:
        self._counters.add(definitions.QUOTA_REFUSALS, (("quota", quota),))
        return Problem(507, "quota-exceeded", detail, headers={"retry-after": str(RETRY_AFTER_S)})

    def _begin_check(self, tenant: str, account: _Account) -> None:
        now = asyncio.get_running_loop().time()
        if now - account.checked_at < INTERVAL_S:
            return
        account.checked_at = now
        task = asyncio.create_task(self._check(tenant, account, account.used), name=f"storage quota {tenant}")
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)

    async def _check(self, tenant: str, account: _Account, before: int) -> None:
        """Set the use again. `before`: the use before the delivery that caused the check, which may not be stored."""
        try:
            waiting = await self._waiting_bytes(tenant, account.largest)
        except JetStreamError as error:
            _log.warning("storage_quota.unknown", tenant=tenant, error=str(error))
            return
        used = waiting + account.used - before
        account.used = min(account.used, used) if account.is_checked else used
        account.is_checked = True
        if account.used >= self._limit(self._limits.waiting_bytes):
            _log.warning("storage_quota.exceeded", tenant=tenant, waiting_bytes=waiting)

    async def _waiting_bytes(self, tenant: str, largest: int) -> int:
        """Return about how many bytes the tenant has in all streams whose messages wait, rather too many."""
        infos = [await management.stream_info(self._connection, stream.name) for stream in _WAITING]
        total = sum(info.state.bytes for info in infos)
        if total < self._limit(self._limits.waiting_bytes) // 2:
            return total
        scheduled = subjects.scheduled(tenant, "*", "*")
        count = await management.count_subjects(self._connection, streams.RETRIES.name, scheduled)
        sizes = await self._sample(streams.RETRIES.name, scheduled) if count else []
        due = (subjects.requested, subjects.overflow, subjects.ordered, subjects.due)
        for stream, subject in zip(_WAITING, due, strict=True):
            pattern = subject(tenant, "*")
            info = await management.stream_info(self._connection, stream.name, subjects=pattern)
            count += sum(info.state.subjects.values())
            sizes += await self._sample(stream.name, pattern) if info.state.subjects else []
        average = sum(sizes) // max(1, len(sizes))
        return min(total, count * max(largest, average))

    async def _sample(self, stream: str, pattern: str) -> list[int]:
        """Return the sizes of the oldest messages; only the tenant's own, as another tenant's may be large."""
        batch, _ = await direct_get.read_batch(self._connection, stream, pattern, first_sequence=1, size=SAMPLE)
        return [len(message.data) for message in batch]

    async def _measure_room(self) -> float:
        """Return the bytes of each kind that a tenant may use, by what all use of the account's limit."""
        account = await management.account_info(self._connection)
        limit, used = int(account["limits"]["max_storage"]), int(account["storage"])
        if limit <= 0:
            return math.inf
        replicas = 1
        for stream in streams.STREAMS:  # the server reserves the streams that have a size
            info = await management.find_stream(self._connection, stream.name)
            size = 0 if info is None else int(info.config["max_bytes"])
            if info is not None and size > 0:
                replicas = int(info.config["num_replicas"])
                limit -= size * replicas
                used -= info.state.bytes * replicas
        if used < limit * ROOM_SHORT:
            return math.inf
        return limit * SHARE_OF_ROOM / replicas if used < limit * ROOM_USED_UP else 0

    async def _update(self) -> None:
        share, self._share = self._share, await self._measure_room()
        if share != self._share:
            _log.warning("storage_quota.shared", bytes_per_tenant=None if self._share == math.inf else self._share)
        await self._failed.update()
        try:
            state = await self._archive.update()
            config = (await management.stream_info(self._connection, streams.DELIVERED.name)).config
        except NotFound:  # the archive is optional
            return
        size = int(config["max_bytes"])
        if size <= 0 or state.bytes < size * ARCHIVE_FULL:
            return
        share = int(size * self._limits.archive_share)
        for tenant, used in self._archive.by_tenant.items():
            if used > share:
                await self._archive.trim(tenant, share)
                _log.info("archive.trimmed", tenant=tenant, bytes=used - self._archive.of(tenant))

    def _samples(self) -> Iterator[MetricSample]:
        for stream, stored in ((streams.FAILED, self._failed), (streams.DELIVERED, self._archive)):
            largest = max(stored.by_tenant.values(), default=0)
            yield definitions.LARGEST_TENANT, (("stream", stream.name),), largest
