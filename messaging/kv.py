"""A key-value bucket: read, write with optimistic concurrency, and hear of what was stored."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from messaging import direct_get
from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.publisher import JetStreamPublisher, Publication
from schemas import subjects

_OPERATION: Final = "KV-Operation"
EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
"""A write with this header is refused (10071) when its subject's last message is another one."""
TTL: Final = "Nats-TTL"
"""The server forgets a message with this header after so long, by its own clock (ADR-43)."""


class KvEntry(msgspec.Struct, frozen=True, gc=False):
    """A key's value and its revision; the value of a deleted key is None."""

    key: str
    value: bytes | None
    revision: int


class KvBucket:
    """One of `schemas.subjects.BUCKETS`."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, spec: subjects.BucketConfig) -> None:
        self._connection = connection
        self._publisher = publisher
        self._announced = subjects.announced(spec.name) + "."
        self._stream = f"KV_{spec.name}"
        self._prefix = f"$KV.{spec.name}."

    async def get(self, key: str) -> KvEntry | None:
        """The entry, or None when there is none."""
        entry = await self.find(key)
        return None if entry.value is None else entry

    async def find(self, key: str) -> KvEntry:
        """The entry, its value None when there is none: its revision is then what `put` must expect (0: never was)."""
        record = await direct_get.last(self._connection, self._stream, self._prefix + key)
        return KvEntry(key, None, 0) if record is None else self._entry(record)

    async def list(self, pattern: str = ">") -> list[KvEntry]:
        """All entries whose key matches, sorted by key."""
        records = await direct_get.newest_of_each(self._connection, self._stream, [self._prefix + pattern])
        entries = (self._entry(record) for record in records)
        return sorted((entry for entry in entries if entry.value is not None), key=lambda entry: entry.key)

    async def put(self, key: str, value: bytes, *, revision: int | None = None, ttl_s: int | None = None) -> int:
        """Write and return the new revision. With `revision` (0: must be new) raises `RejectedByServer` 10071 on another one.

        After `ttl_s` seconds the entry is gone, as if it had never been.
        """
        headers = {} if revision is None else {EXPECTED_REVISION: str(revision)}
        if ttl_s is not None:
            headers[TTL] = f"{ttl_s}s"
        return (await self._publisher.publish(Publication(self._prefix + key, value, headers))).seq

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Mark the key as deleted. With `revision` raises `RejectedByServer` 10071 when it has another one."""
        expected = {} if revision is None else {EXPECTED_REVISION: str(revision)}
        await self._publisher.publish(Publication(self._prefix + key, b"", {_OPERATION: "DEL", **expected}))

    async def on_change(self, callback: Callable[[KvEntry], Awaitable[None]]) -> None:
        """Call `callback` with each entry that is stored from now on. Only for buckets that are `announced`."""

        async def receive(incoming: IncomingMessage) -> None:
            headers = incoming.headers or {}
            key = incoming.subject.removeprefix(self._announced)
            value = None if _OPERATION in headers else incoming.data
            await callback(KvEntry(key, value, int(headers["Nats-Sequence"])))

        await self._connection.subscribe(self._announced + ">", receive)

    def _entry(self, record: direct_get.StoredMessage) -> KvEntry:
        value = None if _OPERATION in record.headers else record.data
        return KvEntry(record.subject.removeprefix(self._prefix), value, record.sequence)
