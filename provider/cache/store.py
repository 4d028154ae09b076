"""Where a cache keeps what it knows: a bounded number of snapshots, of which every tenant has a fair share."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Final, final

from provider.snapshot import SecretSnapshot

Place = tuple[str, str]
"""Namespace and name of a Secret."""


@final
class CacheEntry:
    """A snapshot and the moments, by the cache's clock, until which it may be used, and for what."""

    __slots__ = (
        "ask_again_at",
        "began_at",
        "fresh_until",
        "refresh_at",
        "refuses_until",
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
        """All times count from `began_at`, when the read began: an answer is as old as its question."""
        self.snapshot: Final = snapshot
        self.began_at: Final = began_at
        self.fresh_until: Final = began_at + fresh_s
        self.stale_until: Final = began_at + max(stale_s, fresh_s)
        self.refuses_until: Final = began_at + min(refuses_s, fresh_s)
        self.refresh_at = began_at + refresh_s
        """From then on, who uses it has it read anew in the background."""
        self.ask_again_at = 0.0
        """After a read that failed: until then the provider is left in peace."""
        self.used_at = began_at
        """When its place in the order of use was last told."""


@final
class SnapshotStore:
    """Entries in the order of their use. The tenant with the most of them makes room, with its least used one.

    So no tenant is pushed below its share, which is the capacity divided by the tenants: while another has more than
    that, it is the other's turn.
    """

    __slots__ = ("_capacity", "_entries", "_owned", "get")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Place, CacheEntry] = OrderedDict()
        self._owned: dict[str | None, int] = {}
        self.get: Final[Callable[[Place], CacheEntry | None]] = self._entries.get
        """The entry, if there is one. Looking is no use. Not a method of ours, as every delivery asks."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[CacheEntry]:
        return iter(self._entries.values())

    def touch(self, place: Place) -> None:
        """The entry there is in use."""
        self._entries.move_to_end(place)

    def put(self, place: Place, entry: CacheEntry, *, now: float) -> None:
        """Keep an entry in place of an older one, and make room for it."""
        self.discard(place)
        self._entries[place] = entry
        tenant = entry.snapshot.tenant
        self._owned[tenant] = self._owned.get(tenant, 0) + 1
        self._drop_outdated(now)
        if len(self._entries) > self._capacity:
            self.discard(self._least_missed())

    def discard(self, place: Place) -> None:
        """Forget an entry, if it is there."""
        entry = self._entries.pop(place, None)
        if entry is None:
            return
        tenant = entry.snapshot.tenant
        self._owned[tenant] -= 1
        if not self._owned[tenant]:
            del self._owned[tenant]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._owned.clear()

    def _drop_outdated(self, now: float) -> None:
        """Drop those that nobody used until they were too old to be of use."""
        outdated = list(takewhile(lambda item: now >= item[1].stale_until, self._entries.items()))
        for place, _ in outdated:
            self.discard(place)

    def _least_missed(self) -> Place:
        most = max(self._owned.values())
        return next(place for place, entry in self._entries.items() if self._owned[entry.snapshot.tenant] == most)
