"""The rows of a bucket in memory, kept current by the bucket's announcements.

The server announces each value after storing it, so a change is known within milliseconds. An announcement can be lost
while the connection is down: forget the cache after a reconnect. No value is used for longer than `max_age_s`.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Generic, TypeVar

import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvEntry, KvTable

MAX_AGE_S: Final = 60.0
MAX_ENTRIES: Final = 50_000
REPLICA_LAG_S: Final = 10.0
"""A read may come from a replica that lags behind, but none misses a change that is older than this.

Rows announced within this time outweigh their absence in a list. Deleted rows are remembered for this time.
"""
_STORED_AT_ONCE: Final = 64
"""Rows of a list that are decoded before other tasks run."""

T = TypeVar("T")
R = TypeVar("R")
_log = structlog.get_logger(__name__)


class CachedValue(Generic[T]):
    """A key's value (None: there is none), its revision, and the `time.monotonic` until which it is valid.

    `until` becomes 0 when the value is replaced or forgotten, so that a holder of this object need not ask the cache.
    """

    __slots__ = ("announced_at", "revision", "until", "value")

    def __init__(self, value: T | None, revision: int, until: float, announced_at: float = 0.0) -> None:
        self.value = value
        self.revision = revision
        self.until = until
        self.announced_at = announced_at


class KvCache(Generic[T]):
    """The rows of one table, read key by key (`get`) or all at once (`refresh`)."""

    def __init__(self, table: KvTable[T], *, max_age_s: float = MAX_AGE_S, max_entries: int = MAX_ENTRIES) -> None:
        """With more than `max_entries` keys read one by one or announced, all of them are forgotten."""
        self.on_update: Callable[[str, T | None, T | None], None] = lambda _key, _old, _new: None
        """Called with key, old and new value whenever another value or revision was read or announced."""
        self.on_forget: Callable[[str], None] = lambda _: None
        """Called with each key that is forgotten."""
        self._table = table
        self._max_age_s = max_age_s
        self._max_entries = max_entries
        self._known: dict[str, CachedValue[T]] = {}
        self._fresh_until = self._expired_at = 0.0
        self._reading: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None:
        """Follow the announcements of the bucket."""
        await self._table.bucket.on_change(self.receive)

    async def receive(self, entry: KvEntry) -> None:
        """Store an entry that was just announced."""
        self._add(entry, announced_at=time.monotonic())

    def add(self, entry: KvEntry) -> None:
        """Store an entry that was just read, unless a newer change is known."""
        self._add(entry)

    async def forget(self) -> None:
        """Forget every value."""
        self._forget()

    def expire(self, *, keep_announced: bool = True) -> None:
        """Let the next `refresh` read all rows again, as after a reconnect; their values stay until then.

        Args:
            keep_announced: Keep rows that were just announced although the next list lacks them. If false, the list
                decides, because the announcement of a deletion may have been lost.
        """
        self._fresh_until, self._expired_at = 0.0, time.monotonic()
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
        return self._once(key, lambda: self._read(key))

    async def refresh(self, pattern: str) -> None:
        """Read all rows that match `pattern` unless they are still valid. Raises `JetStreamError`."""
        if self._fresh_until < time.monotonic():
            await asyncio.shield(self._once(pattern, lambda: self.read_all(pattern)))

    async def read_all(self, pattern: str) -> None:
        """Replace the rows by those that match `pattern`, except where an announcement is newer.

        Raises `JetStreamError`; then the rows stay as they are.
        """
        started = time.monotonic()
        entries = await self._table.bucket.list(pattern)
        every_replica_has = started - REPLICA_LAG_S
        for key, known in list(self._known.items()):
            if known.value is None and known.announced_at <= every_replica_has:
                self._known.pop(key).until = 0.0
        for number, entry in enumerate(entries):
            self._store(entry)
            if not number % _STORED_AT_ONCE:
                await asyncio.sleep(0)
        now = time.monotonic()
        for key in self._known.keys() - {entry.key for entry in entries}:
            known = self._known[key]
            if known.value is not None and known.announced_at <= every_replica_has:
                known.until = 0.0  # the deletion is remembered, so that no lagging replica brings the row back
                self._known[key] = CachedValue(None, known.revision, now + REPLICA_LAG_S, now)
                self.on_update(key, known.value, None)
        if self._expired_at <= started:
            self._fresh_until = now + self._max_age_s

    def _once(self, name: str, read: Callable[[], Coroutine[Any, Any, R]]) -> asyncio.Task[R]:
        reading = self._reading.get(name)
        if reading is None:
            reading = self._reading[name] = asyncio.create_task(read())
            reading.add_done_callback(lambda _: self._reading.pop(name, None))
        return reading

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
        if len(self._known) >= self._max_entries and entry.key not in self._known:
            self._forget()
        self._store(entry, announced_at)

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
        if known is not None:
            known.until = 0.0
        self._known[entry.key] = CachedValue(value, entry.revision, now + self._max_age_s, announced_at)
        self.on_update(entry.key, known.value if known else None, value)

    def _forget(self) -> None:
        forgotten, self._known = self._known, {}
        self._fresh_until, self._expired_at = 0.0, time.monotonic()  # a list that is being read lacks rows now
        for known in forgotten.values():
            known.until = 0.0
        for key in forgotten:
            self.on_forget(key)
