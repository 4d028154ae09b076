"""The archive: deliveries that were taken, whole, so that they can be replayed when a receiver has lost them.

What failed is kept by a message each, and seldom. What was delivered is nearly everything, so here a message is a pack:
what one worker delivered to one destination within a moment. A delivery's request is acknowledged when its pack is
stored and not before, so the archive misses nothing; a worker that dies in between has the same result settled again by
the next one, and what a pack then holds a second time is told by its attempt.
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
"""How long a pack waits for more: the longest that an acknowledgement is held back by it."""
FIND_INTERVAL_S: Final = 10.0
MAX_BATCH_DELIVERIES: Final = 64
MAX_BATCH_BYTES: Final = 128 * 1024
"""The most that several copies in a pack have together: one alone may be as large as a request."""
_BLOCK: Final = block_of({HEADER_CONTENT_TYPE: "application/msgpack"})

_DOCUMENT: Final = {HEADER_CONTENT_TYPE: CONTENT_TYPE}
_DELIVERED: Final = {HEADER_OUTCOME: Outcome.DELIVERED.value, HEADER_CODE: Code.HTTP_2XX.value}
FindArchive = Callable[[], Awaitable[bool]]

_log = structlog.get_logger(__name__)
_DROPPED: Final = PublishAck(streams.DELIVERED.name, 0)


class ArchivedDelivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery as it was requested: the document, and the headers in which its state rides."""

    document: bytes
    headers: dict[str, str] | bytes
    """A block of header lines. Older archives of ordered queues have a dictionary."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ArchivedDelivery]).decode


class ArchivePublication(Publication, frozen=True, gc=False):
    """A copy of what was delivered."""


class ArchiveBatchPublication(ArchivePublication, frozen=True, gc=False):
    """A copy that is a pack already, as nothing may wait behind it."""


def archive_batch(subject: str, document: bytes, headers: bytes) -> ArchiveBatchPublication:
    """Return a batch of one copy, for a delivery whose acknowledgement cannot wait for others."""
    return ArchiveBatchPublication(subject, _encode([ArchivedDelivery(document, headers)]), {}, _BLOCK)


def read_archive_batch(pack: StoredMessage) -> Iterator[StoredMessage]:
    """The copies in `pack`, each as if it had been stored by itself; none if another version has packed it."""
    with contextlib.suppress(msgspec.DecodeError):
        for one in _decode(pack.data):
            headers = read_headers(one.headers) if isinstance(one.headers, bytes) else one.headers
            portable = _DOCUMENT | portable_headers(headers) | _DELIVERED
            yield StoredMessage(pack.subject, pack.sequence, pack.stored_at, one.document, portable)


class ArchiveBatcher:
    """A publisher that stores copies in packs, and anything else as it is. Use as an asynchronous context manager.

    `find` tells whether there is an archive, and is asked again and again: it may be made, or taken away, at any time.
    While there is none, copies are dropped, so that nothing waits for them.
    """

    def __init__(
        self, publisher: MessagePublisher, *, find: FindArchive, alone: AbstractSet[str] = frozenset()
    ) -> None:
        """`alone`: `<tenant>.<destination>` of those whose next delivery waits for this one: no copy waits for more."""
        self.is_open = False
        self._alone = alone
        self._publisher = publisher
        self._find = find
        self._packs: dict[str, _ArchiveBatch] = {}
        self._begun = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._look()
        self._tasks = [asyncio.create_task(self._flush_each_moment()), asyncio.create_task(self._look_again())]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send, and call `on_stored` once: of a copy when its pack is stored, or could not be."""
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
        pack = self._packs.get(subject)
        if pack is None:
            pack = self._packs[subject] = _ArchiveBatch(subject)
            self._begun.set()
        if not pack.add(publication.payload, publication.block, on_stored):
            pack.send(self._publisher)
            pack = self._packs[subject] = _ArchiveBatch(subject)
            pack.add(publication.payload, publication.block, on_stored)
        if self._alone and subjects.lane_of(subject) in self._alone:
            del self._packs[subject]
            pack.send(self._publisher)

    async def _flush_each_moment(self) -> None:
        while True:
            await self._begun.wait()
            await asyncio.sleep(BATCH_WAIT_S)
            self._begun.clear()
            self._flush()

    def _flush(self) -> None:
        packs, self._packs = self._packs, {}
        for pack in packs.values():
            pack.send(self._publisher)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(FIND_INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        try:
            is_open = await self._find()
        except JetStreamError:  # not to be known now: then it is as it was
            return
        if is_open != self.is_open:
            _log.info("archive.found" if is_open else "archive.gone", stream=streams.DELIVERED.name)
        self.is_open = is_open


class _ArchiveBatch:
    """Copies for one destination, and who wants to know of each that it is stored."""

    __slots__ = ("_bytes", "_copies", "_count", "_waiting", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._copies: list[tuple[bytes, bytes]] = []
        """Encoded like `ArchivedDelivery`, and made without a call."""
        self._waiting: list[OnStored] = []
        self._count = self._bytes = 0

    def add(self, document: bytes, headers: bytes, on_stored: OnStored) -> bool:
        """Take a copy, unless there is no room for it beside the others."""
        size = self._bytes + len(document) + len(headers)
        if self._count and (self._count == MAX_BATCH_DELIVERIES or size > MAX_BATCH_BYTES):
            return False
        self._copies.append((document, headers))
        self._waiting.append(on_stored)
        self._count, self._bytes = self._count + 1, size
        return True

    def send(self, publisher: MessagePublisher) -> None:
        payload = _encode(self._copies)
        self._copies.clear()  # while it is in the processor's caches: kept for a moment more, it took 2 % to let go of
        publisher.send(Publication(self.subject, payload, {}, _BLOCK), self._on_stored)

    def _on_stored(self, result: PublishAck | JetStreamError) -> None:
        for on_stored in self._waiting:
            on_stored(result)
