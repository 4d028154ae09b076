"""The replays of all tenants in memory, without their filters: which are unfinished, and which have to make room.

A filter may name 1,000 ids, so a row may have 100 KB. The index keeps a digest of it.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import KvCache
from schemas.configuration import ReplayFilter, ReplayState

MAX_AGE_S: Final = 300.0
"""Seconds after which all replays are read again, in case an announcement was lost."""
MAX_ENDED: Final = 1000
MAX_ENDED_BYTES: Final = 2 * 1024**2
"""Finished and cancelled replays of a tenant that are kept. With more, the oldest make room for a new one."""
MAX_REMOVED: Final = 64
"""Replays that make room for one: more than one only when the tenant has far too many."""


class ReplaySummary(msgspec.Struct, frozen=True):
    """A replay without its filter. `filter`: a digest of it while the replay is unfinished, otherwise empty."""

    filter: bytes
    size: int
    unattended: bool
    replayed: int
    left: int

    @property
    def is_unfinished(self) -> bool:
        """True while some process has to run it."""
        return bool(self.filter)


class _StoredReplay(msgspec.Struct, frozen=True):
    """The fields of a `Replay` that the index needs. The filter is not decoded: rows are announced twice a second."""

    filter: msgspec.Raw
    until_sequence: int
    cursor: int = 0
    replayed: int = 0
    state: ReplayState = ReplayState.RUNNING
    unattended: bool = False


class _Summaries(KvTable[ReplaySummary]):
    """The rows of replays, decoded to summaries."""

    def __init__(self, bucket: KvBucket) -> None:
        super().__init__(bucket, ReplaySummary)
        self._rows = KvTable(bucket, _StoredReplay)

    def decode(self, entry: KvEntry) -> ReplaySummary | None:
        replay = self._rows.decode(entry)
        if replay is None:
            return None
        is_running = replay.state is ReplayState.RUNNING
        return ReplaySummary(
            filter=_digest(replay.filter) if is_running else b"",
            size=len(entry.value or b""),
            unattended=replay.unattended,
            replayed=replay.replayed,
            left=max(0, replay.until_sequence - replay.cursor),
        )


class _TenantReplays:
    """The replays of a tenant, by id."""

    def __init__(self) -> None:
        self.unfinished: dict[str, ReplaySummary] = {}
        self.ended: dict[str, ReplaySummary] = {}
        self.ended_bytes = 0

    def change(self, replay: str, new: ReplaySummary | None) -> None:
        """Replace what is known of a replay."""
        self.unfinished.pop(replay, None)
        if old := self.ended.pop(replay, None):
            self.ended_bytes -= old.size
        if new is not None and new.is_unfinished:
            self.unfinished[replay] = new
        elif new is not None:
            self.ended[replay] = new
            self.ended_bytes += new.size


class ReplayIndex:
    """Finds replays of a tenant. Raises `JetStreamError` when they cannot be read."""

    def __init__(self, bucket: KvBucket) -> None:
        self._bucket = bucket
        self._rows = KvCache(_Summaries(bucket), max_age_s=MAX_AGE_S, is_whole=True)
        self._rows.on_update = self._on_update
        self._tenants: dict[str, _TenantReplays] = {}
        self._is_following = False

    async def start(self) -> None:
        """Follow the announcements of the bucket. Until then every call reads the tenant's replays again."""
        await self._bucket.on_change(self.receive)
        await self.forget()
        self._is_following = True

    async def forget(self) -> None:
        """Read all replays again when they are next needed: announcements may have been lost."""
        self._rows.expire()

    async def receive(self, entry: KvEntry) -> None:
        """Store an entry that was just announced, or that this process has just stored."""
        if entry.key.count(".") == 1:  # not a lease
            await self._rows.receive(entry)

    async def unfinished(self, tenant: str) -> dict[str, ReplaySummary]:
        """Return the tenant's unfinished replays by id, oldest first."""
        return dict(sorted((await self._read(tenant)).unfinished.items()))

    async def find_unfinished(self, tenant: str, chosen: ReplayFilter) -> str | None:
        """Return the tenant's unfinished replay with this filter, or None."""
        digest = _digest(msgspec.json.encode(chosen))
        return next((one for one, known in (await self.unfinished(tenant)).items() if known.filter == digest), None)

    async def all_unfinished(self) -> Iterator[tuple[str, str, ReplaySummary]]:
        """Return tenant, id and summary of every unfinished replay."""
        await self._rows.refresh("*.*")
        return (
            (tenant, replay, summary)
            for tenant, known in list(self._tenants.items())
            for replay, summary in sorted(known.unfinished.items())
        )

    async def make_room(self, tenant: str) -> None:
        """Delete the tenant's oldest ended replays, so that there is room for one more."""
        known = await self._read(tenant)
        for _ in range(MAX_REMOVED):
            if len(known.ended) < MAX_ENDED and known.ended_bytes < MAX_ENDED_BYTES:
                return
            key = f"{tenant}.{min(known.ended)}"
            await self.receive(KvEntry(key, None, await self._bucket.delete(key)))

    async def _read(self, tenant: str) -> _TenantReplays:
        if not self._is_following:
            self._rows.expire()
        await self._rows.refresh("*.*" if self._is_following else f"{tenant}.*")
        return self._tenants.get(tenant) or _TenantReplays()

    def _on_update(self, key: str, _old: ReplaySummary | None, new: ReplaySummary | None) -> None:
        tenant, _, replay = key.partition(".")
        known = self._tenants.setdefault(tenant, _TenantReplays())
        known.change(replay, new)
        if not (known.unfinished or known.ended):
            del self._tenants[tenant]


def _digest(encoded: bytes | msgspec.Raw) -> bytes:
    return hashlib.sha256(encoded).digest()
