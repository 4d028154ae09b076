"""Atomic batches (ADR-50) that combine the publications of several callers.

A batch costs the server milliseconds, however small it is. Publications that arrive while a batch is in progress wait.
The next batch stores them together, by turns of tenants. A tenant has one batch in progress, so another one waits for
one of its batches at most. If the server rejects a combined batch, each tenant's part is tried alone, then each
caller's.
"""

import asyncio
import collections
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.publication import Publication, PublishAck
from schemas import subjects

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

    tenant: str
    publications: Sequence[Publication]
    outcome: "asyncio.Future[list[PublishAck]]"

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(len(one.payload) for one in self.publications)


def _parts(group: Sequence[_BatchRequest]) -> list[list[_BatchRequest]]:
    """Return the requests of each tenant, the tenant with the fewest first, or each request of the only tenant."""
    of_tenant: dict[str, list[_BatchRequest]] = {}
    for request in group:
        of_tenant.setdefault(request.tenant, []).append(request)
    if len(of_tenant) == 1:
        return [[request] for request in group]
    return sorted(of_tenant.values(), key=len)


class AtomicBatcher:
    """Combines publications for one stream into batches."""

    def __init__(self, publisher: BatchPublisher) -> None:
        self._publisher = publisher
        self._waiting: dict[str, collections.deque[_BatchRequest]] = {}
        """The requests of each tenant, the next tenant first."""
        self._busy: set[str] = set()
        """Tenants with a batch in progress."""
        self._working: set[asyncio.Task[None]] = set()

    async def store(self, publications: Sequence[Publication]) -> list[PublishAck]:
        """Store all or none, of one tenant; return an acknowledgement for each.

        Raises `RejectedByServer` or `ServerUnavailable`.
        """
        tenant, _ = subjects.tenant_and_destination(publications[0].subject)
        request = _BatchRequest(tenant, publications, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, collections.deque()).append(request)
        if len(self._working) < MAX_CONCURRENT:
            task = asyncio.create_task(self._work(), name="batches")
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return await request.outcome

    async def _work(self) -> None:
        while group := self._next():
            tenants = {request.tenant for request in group}
            self._busy |= tenants
            try:
                await self._store(group)
            finally:
                self._busy -= tenants

    def _next(self) -> list[_BatchRequest]:
        """Remove and return requests that fit into one batch, one of each tenant by turns."""
        group: list[_BatchRequest] = []
        count = size = 0
        turns = collections.deque(tenant for tenant in self._waiting if tenant not in self._busy)
        while turns:
            tenant = turns.popleft()
            waiting = self._waiting[tenant]
            count, size = count + len(waiting[0].publications), size + waiting[0].size
            if group and (count > MAX_MESSAGES or size > MAX_BYTES):
                break
            group.append(waiting.popleft())
            del self._waiting[tenant]
            if waiting:
                self._waiting[tenant] = waiting  # behind the others
                turns.append(tenant)
        return group

    async def _store(self, group: Sequence[_BatchRequest]) -> None:
        publications = [one for request in group for one in request.publications]
        try:
            last = await self._publisher.publish_all(publications)
        except JetStreamError as error:
            if isinstance(error, RejectedByServer) and len(group) > 1:
                for part in _parts(group):
                    await self._store(part)
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
