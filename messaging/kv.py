"""Key-value buckets: read, write with optimistic concurrency, and follow announcements.

`KvBucket` stores bytes; `KvTable` stores rows of one type.
"""

import asyncio
import contextlib
import random
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec
import structlog

from messaging import direct_get, management
from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.client.errors import ServerUnavailable, WriteConflict
from messaging.client.term import clock
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects

EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
"""The server rejects a write with this header (10071) unless the subject's newest message has this sequence."""
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
"""The subject that `EXPECTED_REVISION` is about, if not the one that is written to."""
TTL: Final = "Nats-TTL"
"""The server deletes a message with this header after this time, by its own clock (ADR-43)."""
MARKER_TTL_S: Final = 120
"""Seconds until the server removes the marker of a deleted key: every replica knows of it. Until then it is counted."""
MAX_SEEN: Final = 10_000
MAX_TRIES: Final = 20
MAX_PAUSE_S: Final = 0.05
"""Longest pause after a conflict: a replica that answers reads may lag behind the leader."""
PAGE_BYTES: Final = 256 * 1024
"""Bytes of stored rows after which a page ends, unless it has only one row."""
_FIRST_READ: Final = 16
"""Rows of a page's first read; later ones depend on the size of those that were read."""
_OPERATION: Final = "KV-Operation"

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class WriteContention(ServerUnavailable):
    """An entry that changed during every try to update it."""

    def __init__(self) -> None:
        super().__init__(f"the entry was changed by other writers during {MAX_TRIES} tries; try again")


class KvEntry(msgspec.Struct, frozen=True, gc=False):
    """A key's value and its revision; the value of a deleted key is None."""

    key: str
    value: bytes | None
    revision: int

    @property
    def id(self) -> str:
        """The key without the tenant."""
        return self.key.partition(".")[2]


class KvRow(msgspec.Struct, Generic[T], frozen=True):
    """A key's decoded value and its revision."""

    key: str
    value: T
    revision: int

    @property
    def id(self) -> str:
        """The key without the tenant."""
        return self.key.partition(".")[2]


async def retry_conflicts(write: Callable[[], Awaitable[T]]) -> T:
    """Repeat `write`, which reads an entry and stores a change, until no other writer comes between.

    Raises:
        WriteContention: Another writer was first in each of `MAX_TRIES` tries.
    """
    for _ in range(MAX_TRIES):
        try:
            return await write()
        except WriteConflict:
            await asyncio.sleep(random.uniform(0, MAX_PAUSE_S))  # noqa: S311 - no secret
    raise WriteContention


class KvBucket:
    """A bucket of `schemas.streams.BUCKETS`. Every method raises `JetStreamError`."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, spec: streams.BucketConfig) -> None:
        self.name: Final = spec.name
        self._connection = connection
        self._publisher = publisher
        self._announced = subjects.announced(spec.name) + "."
        self._stream = f"KV_{spec.name}"
        self._prefix = f"$KV.{spec.name}."
        self._first_seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def get(self, key: str) -> KvEntry | None:
        """Return the entry, or None when there is none."""
        entry = await self.find(key)
        return None if entry.value is None else entry

    async def find(self, key: str) -> KvEntry:
        """Return the entry. Without one the value is None, and the revision is what `put` must expect."""
        record = await direct_get.get_last(self._connection, self._stream, self._prefix + key)
        return KvEntry(key, None, 0) if record is None else self._entry(record)

    def seen_s(self, entry: KvEntry) -> float:
        """Return for how many seconds this process has seen the entry at its revision, from the first call on."""
        now, known = clock(), self._first_seen.get(entry.key)
        if known is not None and known[0] == entry.revision:
            return now - known[1]
        self._first_seen[entry.key] = entry.revision, now
        self._first_seen.move_to_end(entry.key)
        if len(self._first_seen) > MAX_SEEN:
            self._first_seen.popitem(last=False)
        return 0.0

    async def list_keys(self, pattern: str = ">") -> list[str]:
        """Return all keys that match, sorted, and keys that were deleted within `MARKER_TTL_S`."""
        info = await management.stream_info(self._connection, self._stream, subjects=self._prefix + pattern)
        return sorted(subject.removeprefix(self._prefix) for subject in info.state.subjects)

    async def count_keys(self, pattern: str) -> int:
        """Return how many keys match, those among them that were deleted within `MARKER_TTL_S`."""
        return await direct_get.count(self._connection, self._stream, self._prefix + pattern)

    async def get_all(self, keys: Sequence[str]) -> list[KvEntry]:
        """Return the entries of those `keys` that have one, sorted by key."""
        names = [self._prefix + key for key in keys]
        records = await direct_get.get_last_of(self._connection, self._stream, names)
        return sorted(self._stored(records), key=_key)

    async def read_each(self, keys: Sequence[str]) -> AsyncIterator[KvEntry]:
        """Yield the entries of those `keys` that have one, in this order. Little is in memory at once."""
        start, size, count, total = 0, _FIRST_READ, 0, 0
        while start < len(keys):
            part = keys[start : start + size]
            found = {entry.key: entry for entry in await self.get_all(part)}
            for key in part:
                if entry := found.get(key):
                    yield entry
            start += size
            count += len(found)
            total += sum(len(entry.value or b"") for entry in found.values())
            size = max(1, min(direct_get.BATCH, direct_get.BATCH_BYTES * count // (total or 1)))

    async def read(self, pattern: str = ">") -> AsyncIterator[KvEntry]:
        """Yield all entries whose key matches. A batch is in memory at once; one that changes may come twice."""
        async for record in direct_get.scan_last(self._connection, self._stream, self._prefix + pattern):
            for entry in self._stored([record]):
                yield entry

    async def list(self, pattern: str = ">") -> list[KvEntry]:
        """Return all entries whose key matches, sorted by key. Only for few: all are in memory at once."""
        found = {entry.key: entry async for entry in self.read(pattern)}
        return sorted(found.values(), key=_key)

    async def put(self, key: str, value: bytes, *, revision: int | None = None, ttl_s: int | None = None) -> int:
        """Store a value.

        Args:
            revision: The revision to replace; 0 for a new key.
            ttl_s: Seconds until the server deletes the entry.

        Returns:
            The new revision.

        Raises:
            WriteConflict: The entry has another revision.
        """
        headers = {} if revision is None else {EXPECTED_REVISION: str(revision)}
        if ttl_s is not None:
            headers[TTL] = f"{ttl_s}s"
        return (await self._publisher.publish(Publication(self._prefix + key, value, headers))).seq

    async def update(self, key: str, change: Callable[[KvEntry], bytes]) -> KvEntry:
        """Store what `change` makes of the current entry, and return the new entry.

        `change` is called again after a conflict. What it raises is raised here, and then nothing is stored.
        Raises `WriteContention`.
        """

        async def write() -> KvEntry:
            entry = await self.find(key)
            value = change(entry)
            return KvEntry(key, value, await self.put(key, value, revision=entry.revision))

        return await retry_conflicts(write)

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Mark the key as deleted, and return the revision of the mark.

        With `revision` raises `WriteConflict` when the entry has another one.
        """
        headers = {_OPERATION: "DEL", TTL: f"{MARKER_TTL_S}s"}
        if revision is not None:
            headers[EXPECTED_REVISION] = str(revision)
        return (await self._publisher.publish(Publication(self._prefix + key, b"", headers))).seq

    async def expire_markers(self) -> int:
        """Let the markers expire of keys that an older version deleted, and return their number."""
        old: list[direct_get.StoredMessage] = []
        async for record in direct_get.scan_last(self._connection, self._stream, self._prefix + ">"):
            if _OPERATION in record.headers and TTL not in record.headers:
                old.append(record)  # without a value
        for start in range(0, len(old), direct_get.BATCH):
            await asyncio.gather(*(self._replace_marker(record) for record in old[start : start + direct_get.BATCH]))
        return len(old)

    async def _replace_marker(self, record: direct_get.StoredMessage) -> None:
        with contextlib.suppress(WriteConflict):  # the key has a value again
            await self.delete(record.subject.removeprefix(self._prefix), revision=record.sequence)

    async def on_change(self, callback: Callable[[KvEntry], Awaitable[None]]) -> None:
        """Call `callback` with each entry that is stored from now on. Only for buckets that are `announced`."""

        async def receive(incoming: IncomingMessage) -> None:
            headers = incoming.headers or {}
            key = incoming.subject.removeprefix(self._announced)
            value = None if _OPERATION in headers else incoming.data
            await callback(KvEntry(key, value, int(headers["Nats-Sequence"])))

        await self._connection.subscribe(self._announced + ">", receive)

    def _stored(self, records: Iterable[direct_get.StoredMessage]) -> Iterator[KvEntry]:
        return (entry for entry in map(self._entry, records) if entry.value is not None)

    def _entry(self, record: direct_get.StoredMessage) -> KvEntry:
        value = None if _OPERATION in record.headers else record.data
        return KvEntry(record.subject.removeprefix(self._prefix), value, record.sequence)


def _key(entry: KvEntry) -> str:
    return entry.key


class KvTable(Generic[T]):
    """A bucket whose values are JSON documents of one type.

    A row that this version cannot decode counts as absent. Each one is logged once, and counted in `undecodable`.
    """

    def __init__(self, bucket: KvBucket, row_type: type[T]) -> None:
        self.bucket: Final = bucket
        self.undecodable: Final[dict[str, int]] = {}
        """Revision of each undecodable row by its key."""
        self._decode = msgspec.json.Decoder(row_type).decode

    def decode(self, entry: KvEntry) -> T | None:
        """Return the value of an entry, or None when there is none or it cannot be decoded."""
        if not entry.value:
            return None
        try:
            return self._decode(entry.value)
        except msgspec.DecodeError:
            if self.undecodable.get(entry.key) != entry.revision:
                self.undecodable[entry.key] = entry.revision
                _log.error("kv.undecodable", bucket=self.bucket.name, key=entry.key)
        return None

    async def get(self, key: str) -> KvRow[T] | None:
        """Return the row, or None when there is none."""
        return self._row(await self.bucket.find(key))

    async def list_page(
        self, pattern: str, *, limit: int, after: str | None = None, descending: bool = False
    ) -> tuple[list[KvRow[T]], bool]:
        """Return the first `limit` rows whose key matches and follows `after`, and whether there are more.

        Only the keys are listed, and the rows of the page are read. The page ends early at `PAGE_BYTES`.

        Args:
            descending: From the last key to the first.
        """
        keys = await self.bucket.list_keys(pattern)
        if descending:
            keys = keys[: None if after is None else bisect_left(keys, after)][::-1]
        elif after is not None:
            keys = keys[bisect_right(keys, after) :]
        rows: list[KvRow[T]] = []
        size = 0
        async for entry in self.bucket.read_each(keys):
            row = self._row(entry)
            if row is None:
                continue
            size += len(entry.value or b"")
            if len(rows) == limit or (rows and size > PAGE_BYTES):
                return rows, True
            rows.append(row)
        return rows, False

    async def get_all(self, keys: Sequence[str]) -> list[KvRow[T]]:
        """Return the rows of those `keys` that have one, sorted by key."""
        rows = map(self._row, await self.bucket.get_all(keys))
        return [row for row in rows if row is not None]

    async def read(self, pattern: str) -> AsyncIterator[KvRow[T]]:
        """Yield the rows whose key matches, as `KvBucket.read` does."""
        async for entry in self.bucket.read(pattern):
            if row := self._row(entry):
                yield row

    async def list(self, pattern: str) -> list[KvRow[T]]:
        """Return the rows whose key matches, sorted by key. Only for few: all are in memory at once."""
        rows = map(self._row, await self.bucket.list(pattern))
        return [row for row in rows if row is not None]

    async def put(self, key: str, value: T, *, revision: int | None = None) -> int:
        """Store a row, as `KvBucket.put` does, and return the new revision."""
        return await self.bucket.put(key, msgspec.json.encode(value), revision=revision)

    async def update(
        self, key: str, change: Callable[[T | None], T], *, check: Callable[[KvEntry], None] = lambda _: None
    ) -> KvRow[T]:
        """Store what `change` makes of the current row, as `KvBucket.update` does, and return the new row.

        `check` is called with the current entry before each change, and may raise.
        """
        values: list[T] = []

        def encode(entry: KvEntry) -> bytes:
            check(entry)
            values.append(change(self.decode(entry)))
            return msgspec.json.encode(values[-1])

        entry = await self.bucket.update(key, encode)
        return KvRow(key, values[-1], entry.revision)

    def _row(self, entry: KvEntry) -> KvRow[T] | None:
        value = self.decode(entry)
        return None if value is None else KvRow(entry.key, value, entry.revision)
