"""The rows of a bucket in memory, kept current by the bucket's announcements.

The server announces each value after storing it, so a change is known within milliseconds. An announcement can be lost
while the connection is down: forget the cache after a reconnect. No value is used for longer than `max_age_s`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Generic, TypeVar

import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvEntry, KvTable

MAX_AGE_S: Final = 60.0
MAX_ENTRIES: Final = 50_000
MAX_BYTES: Final = 32 * 1024**2
"""Bytes of the stored rows. Decoded, they take several times as much."""
REPLICA_LAG_S: Final = 10.0
"""A read may come from a replica that lags behind, but none misses a change that is older than this.

Rows announced within this time outweigh their absence in a list. Deleted rows are remembered for this time.
"""
_STORED_AT_ONCE: Final = 64
"""Rows of a list that are decoded before other tasks run."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class SharedReads:
    """Reads in progress, which all callers share who ask meanwhile. None ends with a caller that leaves."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    def begin(self, name: str, read: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the task that reads, after starting one if there is none. Callers shield it."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(read(), name=f"read {name}")
            task.add_done_callback(lambda ended: self._on_end(name, ended))
        return task

    def _on_end(self, name: str, ended: asyncio.Task[Any]) -> None:
        del self._running[name]
        if not ended.cancelled():
            ended.exception()  # perhaps every caller has left


class CachedValue(Generic[T]):
    """A key's value (None: there is none), its revision, and the `time.monotonic` until which it is valid.

    `until` becomes 0 when the value is replaced or forgotten, so that a holder of this object need not ask the cache.
    """

    __slots__ = ("announced_at", "revision", "size", "until", "value")

    def __init__(self, value: T | None, revision: int, until: float, announced_at: float, size: int) -> None:
        self.value = value
        self.size = size
        self.revision = revision
        self.until = until
        self.announced_at = announced_at


class KvCache(Generic[T]):
    """The rows of one table, read key by key (`get`) or all at once (`refresh`)."""

    def __init__(
        self,
        table: KvTable[T],
        *,
        max_age_s: float = MAX_AGE_S,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        is_whole: bool = False,
    ) -> None:
        """Beyond `max_entries` or `max_bytes`, keys read one by one or announced displace the oldest ones.

        Unless the cache `is_whole`: then a key without a value has none in the bucket.
        """
        self.on_update: Callable[[str, T | None, T | None], None] = lambda _key, _old, _new: None
        """Called with key, old and new value whenever another value or revision was read or announced."""
        self.on_forget: Callable[[str], None] = lambda _: None
        """Called with each key that is displaced or forgotten."""
        self._table = table
        self._max_age_s = max_age_s
        self._max_entries = max(1, max_entries)
        self._max_bytes = max_bytes
        self._is_whole = is_whole
        self._known: OrderedDict[str, CachedValue[T]] = OrderedDict()
        self.size = 0
        """Bytes of the stored rows."""
        self._fresh_until = self._expired_at = 0.0
        self._reading = SharedReads()

    async def start(self) -> None:
        """Follow the announcements of the bucket."""
        await self._table.bucket.on_change(self.receive)

    async def receive(self, entry: KvEntry) -> None:
        """Store an entry that was just announced."""
        self._add(entry, announced_at=time.monotonic())

    def add(self, entry: KvEntry) -> None:
        """Store an entry that was just read, unless a newer change is known."""
        self._add(entry)

    async def forget(self) -> list[str]:
        """Forget every value, and return the keys."""
        forgotten = list(self._known)
        for key in forgotten:
            self._forget(key)
        self._read_again()
        return forgotten

    def expire(self, *, keep_announced: bool = True) -> None:
        """Let the next `refresh` read all rows again, as after a reconnect; their values stay until then.

        Args:
            keep_announced: Keep rows that were just announced although the next list lacks them. If false, the list
                decides, because the announcement of a deletion may have been lost.
        """
        self._read_again()
        if not keep_announced:
            for known in self._known.values():
                if known.value is not None:
                    known.announced_at = 0.0

    def knows(self, key: str) -> bool:
        """Return true if the key has been read, even if it has no value."""
        return key in self._known

    def peek(self, key: str) -> T | None:
        """Return the value if it is in memory, whatever its age."""
        known = self._known.get(key)
        return known.value if known else None

    def items(self) -> Iterator[tuple[str, T]]:
        """Return all keys with a value, whatever its age."""
        return ((key, known.value) for key, known in self._known.items() if known.value is not None)

    def values(self) -> Iterator[T]:
        """Return all values, whatever their age."""
        return (known.value for known in self._known.values() if known.value is not None)

    def get_if_fresh(self, key: str) -> CachedValue[T] | None:
        """Return the cached value if there is a valid one, without a coroutine: this is the hot path."""
        known = self._known.get(key)
        return known if known is not None and known.until > time.monotonic() else None

    async def get(self, key: str) -> T | None:
        """Return the value, or None when there is none; wait for JetStream as long as necessary."""
        known = self.get_if_fresh(key)
        return known.value if known is not None else await asyncio.shield(self.begin_reading(key))

    def begin_reading(self, key: str) -> asyncio.Task[T | None]:
        """Return the task that reads the key, after starting one if there is none."""
        return self._reading.begin(key, lambda: self._read(key))

    @property
    def is_fresh(self) -> bool:
        """True while the rows of the last list are valid."""
        return self._fresh_until >= time.monotonic()

    async def refresh(self, pattern: str) -> None:
        """Read all rows that match `pattern` unless they are still valid. Raises `JetStreamError`."""
        if not self.is_fresh:
            await asyncio.shield(self._reading.begin(pattern, lambda: self.read_all(pattern)))

    async def read_all(self, pattern: str) -> None:
        """Replace the rows by those that match `pattern`, except where an announcement is newer.

        Raises `JetStreamError`; then no row is removed.
        """
        started = time.monotonic()
        every_replica_has = started - REPLICA_LAG_S
        for key, known in list(self._known.items()):
            if known.value is None and known.announced_at <= every_replica_has:
                self._pop(key)
        found = set[str]()
        async for entry in self._table.bucket.read(pattern):
            self._store(entry)
            found.add(entry.key)
            if not len(found) % _STORED_AT_ONCE:
                await asyncio.sleep(0)
        now = time.monotonic()
        for key in self._known.keys() - found:
            known = self._known[key]
            if known.value is not None and known.announced_at <= every_replica_has:
                # The deletion is remembered, so that no lagging replica brings the row back.
                self._set(key, CachedValue(None, known.revision, now + REPLICA_LAG_S, now, 0))
                self.on_update(key, known.value, None)
        if self._expired_at <= started:
            self._fresh_until = now + self._max_age_s

    async def _read(self, key: str) -> T | None:
        delay_s = 0.1
        while True:
            try:
                self._add(await self._table.bucket.find(key))
            except JetStreamError as error:
                _log.warning("kv.unreadable", bucket=self._table.bucket.name, error=str(error), next_try_s=delay_s)
            else:
                return self.peek(key)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 5.0)

    def _add(self, entry: KvEntry, announced_at: float = 0.0) -> None:
        self._store(entry, announced_at)
        while not self._is_whole and self._is_full():
            oldest = next(iter(self._known))
            if oldest == entry.key:
                self._known.move_to_end(oldest)
            else:
                self._forget(oldest)
                self._read_again()

    def _store(self, entry: KvEntry, announced_at: float = 0.0) -> None:
        known, now = self._known.get(entry.key), time.monotonic()
        if known is not None:
            # `read_all` learns that a row was deleted, but not the revision of the deletion: only a newer row counts.
            is_deleted_row = known.value is None and entry.revision == known.revision and not announced_at
            if known.until > now and (is_deleted_row or entry.revision < known.revision):
                return  # from a replica that lags behind
            announced_at = max(announced_at, known.announced_at)
        value = self._table.decode(entry)
        if known is not None and value is not None and (value, entry.revision) == (known.value, known.revision):
            known.until, known.announced_at = now + self._max_age_s, announced_at
            return
        size = len(entry.key) + len(entry.value or b"")
        self._set(entry.key, CachedValue(value, entry.revision, now + self._max_age_s, announced_at, size))
        self.on_update(entry.key, known.value if known else None, value)

    def _is_full(self) -> bool:
        return len(self._known) > self._max_entries or (self.size > self._max_bytes and len(self._known) > 1)

    def _set(self, key: str, new: CachedValue[T]) -> None:
        known = self._known.get(key)
        if known is not None:
            known.until = 0.0
            self.size -= known.size
        self._known[key] = new
        self.size += new.size

    def _pop(self, key: str) -> None:
        known = self._known.pop(key)
        known.until = 0.0
        self.size -= known.size

    def _forget(self, key: str) -> None:
        self._pop(key)
        self.on_forget(key)

    def _read_again(self) -> None:
        """Let the next `refresh` read: a list that is being read may lack rows now."""
        self._fresh_until, self._expired_at = 0.0, time.monotonic()
