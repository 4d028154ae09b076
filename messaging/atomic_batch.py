"""Atomic batches of several callers, stored together where they come together.

A batch costs the server some milliseconds, whatever is in it. So what comes while others are on their way waits for
them, and then goes in one: all of it or nothing, which keeps each caller's own all or nothing. When such a batch is
refused for what one of them brought, each is tried alone.
"""

import asyncio
import collections
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.publication import Publication, PublishAck

MAX_MESSAGES: Final = 1000
"""What the server takes in one batch."""
MAX_BYTES: Final = 64 * 1024 * 1024
AT_ONCE: Final = 2
"""Batches of one process. The server has 50 open ones for a stream, and drops what would begin another."""


class StoresAll(Protocol):
    """Stores a batch."""

    async def publish_all(self, publications: Sequence[Publication]) -> PublishAck:
        """Store all of them or none, at consecutive places of which the last is returned."""
        ...


class _BatchRequest(msgspec.Struct, frozen=True):
    """What one caller wants stored."""

    publications: Sequence[Publication]
    outcome: "asyncio.Future[list[PublishAck]]"

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(len(one.payload) for one in self.publications)


class AtomicBatcher:
    """Batches for one stream."""

    def __init__(self, publisher: StoresAll) -> None:
        self._publisher = publisher
        self._waiting: collections.deque[_BatchRequest] = collections.deque()
        self._working: set[asyncio.Task[None]] = set()

    async def store(self, publications: Sequence[Publication]) -> list[PublishAck]:
        """Store all or none; where each one is. Raises `RejectedByServer` or `ServerUnavailable`."""
        asked = _BatchRequest(publications, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if len(self._working) < AT_ONCE:
            task = asyncio.create_task(self._work(), name="batches")
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return await asked.outcome

    async def _work(self) -> None:
        while self._waiting:
            await self._store(self._next())

    def _next(self) -> list[_BatchRequest]:
        """Those that wait, in their order, as far as one batch holds them."""
        taken, count, size = [self._waiting.popleft()], len(self._waiting), 0
        count, size = len(taken[0].publications), taken[0].size
        while self._waiting:
            asked = self._waiting[0]
            count, size = count + len(asked.publications), size + asked.size
            if count > MAX_MESSAGES or size > MAX_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _store(self, group: Sequence[_BatchRequest]) -> None:
        everything = [one for asked in group for one in asked.publications]
        try:
            last = await self._publisher.publish_all(everything)
        except JetStreamError as error:
            if isinstance(error, RejectedByServer) and len(group) > 1:
                for asked in group:
                    await self._store([asked])
                return
            for asked in group:
                if not asked.outcome.done():
                    asked.outcome.set_exception(error)
            return
        sequence = last.seq - len(everything)
        for asked in group:
            stored = [PublishAck(last.stream, sequence + number) for number in range(1, len(asked.publications) + 1)]
            sequence += len(asked.publications)
            if not asked.outcome.done():
                asked.outcome.set_result(stored)
