"""Bounded store of the cache, shared fairly among tenants."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Final, final

from provider.secret_ref import NamespacedName
from provider.snapshot import SecretSnapshot


@final
class CacheEntry:
    """Snapshot with the times, by the cache's clock, until which it may be used."""

    __slots__ = (
        "began_at",
        "fresh_until",
        "refresh_at",
        "refuses_until",
        "retry_at",
        "snapshot",
        "stale_until",
        "used_at",
    )

    def __init__(
        self,
        snapshot: SecretSnapshot,
        *,
        began_at: float,
        fresh_s: float,
        stale_s: float,
        refuses_s: float,
        refresh_s: float,
    ) -> None:
        """Compute the times; every duration counts from `began_at`, the start of the read.

        The snapshot serves for `fresh_s`, and for `stale_s` while the provider is unavailable. It refuses callers for
        `refuses_s`. A use after `refresh_s` starts a background read.
        """
        self.snapshot: Final = snapshot
        self.began_at: Final = began_at
        self.fresh_until = began_at + fresh_s
        self.stale_until: Final = began_at + max(stale_s, fresh_s)
        self.refuses_until = began_at + min(refuses_s, fresh_s)
        self.refresh_at = began_at + refresh_s
        self.retry_at = 0.0
        """After a failed read: no further read before this time."""
        self.used_at = began_at
        """Last move to the end of the order of use."""


@final
class SnapshotStore:
    """Entries in least-recently-used order, evicted from the tenant that owns the most.

    No tenant is pushed below its share, which is the capacity divided by the number of tenants.
    """

    __slots__ = ("_capacity", "_entries", "_owned", "get")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[NamespacedName, CacheEntry] = OrderedDict()
        self._owned: dict[str | None, int] = {}
        self.get: Final[Callable[[NamespacedName], CacheEntry | None]] = self._entries.get
        """Entry, if present. Bound to the dictionary because every delivery calls it."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[CacheEntry]:
        return iter(self._entries.values())

    def touch(self, name: NamespacedName) -> None:
        """Mark the entry as most recently used."""
        self._entries.move_to_end(name)

    def put(self, name: NamespacedName, entry: CacheEntry, *, now: float) -> None:
        """Store an entry, replace an older one, and evict if the store is full."""
        self.discard(name)
        self._entries[name] = entry
        tenant = entry.snapshot.tenant
        self._owned[tenant] = self._owned.get(tenant, 0) + 1
        self._drop_expired(now)
        if len(self._entries) > self._capacity:
            self.discard(self._select_victim())

    def discard(self, name: NamespacedName) -> None:
        """Remove an entry, if present."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        tenant = entry.snapshot.tenant
        self._owned[tenant] -= 1
        if not self._owned[tenant]:
            del self._owned[tenant]

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._owned.clear()

    def _drop_expired(self, now: float) -> None:
        """Drop least recently used entries that are too old to serve."""
        for name, _ in list(takewhile(lambda item: now >= item[1].stale_until, self._entries.items())):
            self.discard(name)

    def _select_victim(self) -> NamespacedName:
        most = max(self._owned.values())
        return next(name for name, entry in self._entries.items() if self._owned[entry.snapshot.tenant] == most)
