"""Atomic batches (ADR-50) that combine the publications of several callers.

A batch costs the server milliseconds, however small it is. Publications that arrive while a batch is in progress wait,
and are stored together in the next one. If the server rejects a combined batch, each caller's part is tried alone.
"""

import asyncio
import collections
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.publication import Publication, PublishAck

MAX_MESSAGES: Final = 1000
"""The server's limit for one batch."""
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_CONCURRENT: Final = 2
"""Batches in progress for one process. The server allows 50 for a stream, and drops further ones."""


class BatchPublisher(Protocol):
    """A publisher of atomic batches."""

    async def publish_all(self, publications: Sequence[Publication]) -> PublishAck:
        """Store all or none at consecutive sequences, and return the acknowledgement of the last one."""
        ...


class _BatchRequest(msgspec.Struct, frozen=True):
    """The publications of one caller."""

    publications: Sequence[Publication]
    outcome: "asyncio.Future[list[PublishAck]]"

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(len(one.payload) for one in self.publications)


class AtomicBatcher:
    """Combines publications for one stream into batches."""

    def __init__(self, publisher: BatchPublisher) -> None:
        self._publisher = publisher
        self._waiting: collections.deque[_BatchRequest] = collections.deque()
        self._working: set[asyncio.Task[None]] = set()

    async def store(self, publications: Sequence[Publication]) -> list[PublishAck]:
        """Store all or none; return an acknowledgement for each. Raises `RejectedByServer` or `ServerUnavailable`."""
        request = _BatchRequest(publications, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if len(self._working) < MAX_CONCURRENT:
            task = asyncio.create_task(self._work(), name="batches")
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return await request.outcome

    async def _work(self) -> None:
        while self._waiting:
            await self._store(self._next())

    def _next(self) -> list[_BatchRequest]:
        """Remove and return the oldest requests that fit into one batch."""
        group = [self._waiting.popleft()]
        count, size = len(group[0].publications), group[0].size
        while self._waiting:
            count, size = count + len(self._waiting[0].publications), size + self._waiting[0].size
            if count > MAX_MESSAGES or size > MAX_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    async def _store(self, group: Sequence[_BatchRequest]) -> None:
        publications = [one for request in group for one in request.publications]
        try:
            last = await self._publisher.publish_all(publications)
        except JetStreamError as error:
            if isinstance(error, RejectedByServer) and len(group) > 1:
                for request in group:
                    await self._store([request])
                return
            for request in group:
                if not request.outcome.done():
                    request.outcome.set_exception(error)
            return
        sequence = last.seq - len(publications)
        for request in group:
            count = len(request.publications)
            if not request.outcome.done():
                request.outcome.set_result([PublishAck(last.stream, sequence + i) for i in range(1, count + 1)])
            sequence += count
