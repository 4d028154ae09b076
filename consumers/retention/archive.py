"""The archive: delivered payloads, replayable when a receiver has lost them.

A failed delivery is retained in a message of its own. Nearly all deliveries succeed, so a message of the archive is a
batch: what one worker delivered to one destination within a moment. A request is acknowledged after its batch is
stored, so the archive misses nothing. When a worker dies in between, the next worker archives the delivery a second
time; readers recognize the copy by its attempt.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final, Self

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.client.headers import block_of, read_headers
from messaging.direct_get import StoredMessage
from messaging.publication import MessagePublisher, OnStored, Publication, PublishAck
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import CONTENT_TYPE
from schemas.headers import HEADER_CODE, HEADER_CONTENT_TYPE, HEADER_OUTCOME, portable_headers

BATCH_WAIT_S: Final = 0.025
"""Longest time that a batch waits for more, and so delays an acknowledgement."""
FIND_INTERVAL_S: Final = 10.0
MAX_BATCH_DELIVERIES: Final = 64
MAX_BATCH_BYTES: Final = 128 * 1024
"""Limit of a batch with several deliveries; a single delivery may be as large as a request."""

FindArchive = Callable[[], Awaitable[bool]]

_BATCH_HEADERS: Final = block_of({HEADER_CONTENT_TYPE: "application/msgpack"})
_DOCUMENT_HEADERS: Final = {HEADER_CONTENT_TYPE: CONTENT_TYPE}
_RESULT_HEADERS: Final = {HEADER_OUTCOME: Outcome.DELIVERED.value, HEADER_CODE: Code.HTTP_2XX.value}
_DROPPED: Final = PublishAck(streams.DELIVERED.name, 0)
_log = structlog.get_logger(__name__)


class ArchivedDelivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The request of a delivery: the document, and the headers that carry its retry state."""

    document: bytes
    headers: dict[str, str] | bytes
    """A block of header lines. Older archives of ordered queues have a dictionary."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ArchivedDelivery]).decode


class ArchivePublication(Publication, frozen=True, gc=False):
    """A delivery to archive."""


class ArchiveBatchPublication(ArchivePublication, frozen=True, gc=False):
    """A delivery that is a batch of its own, so that nothing waits for it."""


def archive_batch(subject: str, document: bytes, headers: bytes) -> ArchiveBatchPublication:
    """Return a batch of one delivery, whose acknowledgement must not wait for others."""
    return ArchiveBatchPublication(subject, _encode([ArchivedDelivery(document, headers)]), {}, _BATCH_HEADERS)


def read_archive_batch(batch: StoredMessage) -> Iterator[StoredMessage]:
    """Return the deliveries of a batch as if each was stored by itself; none if another version wrote the batch."""
    with contextlib.suppress(msgspec.DecodeError):
        for one in _decode(batch.data):
            headers = read_headers(one.headers) if isinstance(one.headers, bytes) else one.headers
            headers = _DOCUMENT_HEADERS | portable_headers(headers) | _RESULT_HEADERS
            yield StoredMessage(batch.subject, batch.sequence, batch.stored_at, one.document, headers)


class ArchiveBatcher:
    """A publisher that archives in batches and sends everything else unchanged. An asynchronous context manager.

    `find` returns True if the archive exists; it is asked regularly, as `apply` may create or remove the archive.
    Without an archive, deliveries for it are dropped, so that nothing waits for them.
    """

    def __init__(
        self, publisher: MessagePublisher, *, find: FindArchive, unbatched: AbstractSet[str] = frozenset()
    ) -> None:
        """`unbatched`: `<tenant>.<destination>` of ordered destinations, where the next delivery waits for this one."""
        self.is_open = False
        self._unbatched = unbatched
        self._publisher = publisher
        self._find = find
        self._batches: dict[str, _ArchiveBatch] = {}
        self._has_batches = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._look()
        self._tasks = [asyncio.create_task(self._flush_regularly()), asyncio.create_task(self._look_regularly())]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send, and call `on_stored` once: for an archived delivery, when its batch is stored or refused."""
        if not isinstance(publication, ArchivePublication):
            self._publisher.send(publication, on_stored)
            return
        if not self.is_open:
            on_stored(_DROPPED)
            return
        if isinstance(publication, ArchiveBatchPublication):
            self._publisher.send(publication, on_stored)
            return
        subject = publication.subject
        batch = self._batches.get(subject)
        if batch is None:
            batch = self._batches[subject] = _ArchiveBatch(subject)
            self._has_batches.set()
        if not batch.add(publication.payload, publication.block, on_stored):
            batch.send(self._publisher)
            batch = self._batches[subject] = _ArchiveBatch(subject)
            batch.add(publication.payload, publication.block, on_stored)
        if self._unbatched and subjects.lane_of(subject) in self._unbatched:
            del self._batches[subject]
            batch.send(self._publisher)

    async def _flush_regularly(self) -> None:
        while True:
            await self._has_batches.wait()
            await asyncio.sleep(BATCH_WAIT_S)
            self._has_batches.clear()
            self._flush()

    def _flush(self) -> None:
        batches, self._batches = self._batches, {}
        for batch in batches.values():
            batch.send(self._publisher)

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(FIND_INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        try:
            is_open = await self._find()
        except JetStreamError:  # unknown: assume no change
            return
        if is_open != self.is_open:
            _log.info("archive.found" if is_open else "archive.gone", stream=streams.DELIVERED.name)
        self.is_open = is_open


class _ArchiveBatch:
    """Deliveries to one destination, and the callbacks that await their storage."""

    __slots__ = ("_bytes", "_count", "_deliveries", "_waiting", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._deliveries: list[tuple[bytes, bytes]] = []
        """Tuples are encoded like `ArchivedDelivery`, and need no call."""
        self._waiting: list[OnStored] = []
        self._count = self._bytes = 0

    def add(self, document: bytes, headers: bytes, on_stored: OnStored) -> bool:
        """Add a delivery. Returns False when the batch has no room for it."""
        size = self._bytes + len(document) + len(headers)
        if self._count and (self._count == MAX_BATCH_DELIVERIES or size > MAX_BATCH_BYTES):
            return False
        self._deliveries.append((document, headers))
        self._waiting.append(on_stored)
        self._count, self._bytes = self._count + 1, size
        return True

    def send(self, publisher: MessagePublisher) -> None:
        payload = _encode(self._deliveries)
        self._deliveries.clear()  # while they are in the processor's caches: releasing them later is slower
        publisher.send(Publication(self.subject, payload, {}, _BATCH_HEADERS), self._on_stored)

    def _on_stored(self, result: PublishAck | JetStreamError) -> None:
        for on_stored in self._waiting:
            on_stored(result)
