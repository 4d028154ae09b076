"""Replays: retained deliveries are requested again, with their ids, and their attempts are counted on.

A replay is a row in a bucket, with a cursor over the retained deliveries, so that an interrupted replay resumes where
it stopped. Nothing is requested twice, neither by a replay after a crash nor by two replays with overlapping filters:

- One replay of a tenant runs at a time, by a lease in the bucket under the key `<tenant>` (`messaging.lease`). Another
  one waits.
- The holder of the lease first searches the streams for what was attempted or requested since a delivery was retained
  (`consumers.replay.source`). No other process requests meanwhile, so the result of the search stays true.
- The cursor moves over stored requests, in order (`consumers.replay.window`). That search also finds requests beyond
  the cursor, stored before a process died. `Nats-Msg-Id` contains the replay's id, in case an acknowledgement got lost.

A lost lease, or a server that does not answer for a while, is treated like a crash: search again, and continue.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from consumers.replay.index import ReplayIndex
from consumers.replay.session import ReplayAudit, ReplayOptions, ReplaySession, ignore
from consumers.replay.source import PAGE_SIZE, RetainedDeliverySource, SupersededPage
from consumers.replay.store import ReplayEnded, ReplayRow, ReplayStore, UnknownReplay
from consumers.retention import retained
from consumers.retention.retained import RetainedDelivery
from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.kv import KvBucket
from messaging.lease import TTL_S, LeaseHolder, LeaseLost, find_holder
from messaging.publisher import JetStreamPublisher
from messaging.quota import Quota
from schemas.configuration import Replay, ReplayFilter, ReplayState
from schemas.ids import new_replay_id

STALL_TIMEOUT_S: Final = 60.0
"""A replay whose cursor has not moved for this long fails with the last error."""
_RETRY_S: Final = 1.0

_log = structlog.get_logger(__name__)


class ReplayService:
    """Finds retained deliveries and requests them again. Every method raises `JetStreamError` without an answer."""

    def __init__(
        self, connection: NatsConnection, publisher: JetStreamPublisher, replays: KvBucket, *, max_open: int = 100
    ) -> None:
        """`max_open`: the unfinished replays that a tenant may have."""
        self._connection = connection
        self._publisher = publisher
        self._bucket = replays
        self._rows = ReplayStore(replays)
        self.index: Final = ReplayIndex(replays)
        self._quota = Quota(
            "unfinished replays",
            max_open,
            self._count_unfinished,
            setting="ONEPROTECT_TENANT_MAX_REPLAYS",
            remedy="cancel some",
        )

    def find_pages(
        self, tenant: str, chosen: ReplayFilter, *, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[SupersededPage]:
        """Return the deliveries that a replay with this filter would find, oldest first, in pages."""
        return RetainedDeliverySource(self._connection, tenant, chosen).find_pages(page_size=page_size)

    async def find_deliveries(self, tenant: str, chosen: ReplayFilter) -> AsyncIterator[RetainedDelivery]:
        """Return the deliveries that a replay with this filter would find, with `superseded` set."""
        async for page in self.find_pages(tenant, chosen):
            for delivery in page.marked_deliveries():
                yield delivery

    async def count_remaining(self, tenant: str, row: Replay) -> int:
        """Return the number of retained deliveries before `row`, including those that it will skip."""
        source = RetainedDeliverySource(self._connection, tenant, row.filter)
        return await source.count(after=row.cursor, until=row.until_sequence)

    async def begin(self, tenant: str, chosen: ReplayFilter, *, by: str) -> tuple[str, Replay]:
        """Return id and row of the unfinished replay with this filter, or else of a new one, not yet stored.

        The oldest replays that ended make room for a new one. Raises `QuotaExceeded`.
        """
        if known := await self.index.find_unfinished(tenant, chosen):
            with contextlib.suppress(UnknownReplay, ReplayEnded):
                return known, await self.resume(tenant, known)
        await self._quota.require_room(tenant)
        await self.index.make_room(tenant)
        until = (await management.stream_info(self._connection, retained.stream_for(chosen).name)).state.last_seq
        return new_replay_id(), Replay(filter=chosen, by=by, started_at=datetime.now(UTC), until_sequence=until)

    async def resume(self, tenant: str, replay: str) -> Replay:
        """Return the row of an unfinished replay, for `run`. Raises `UnknownReplay` or `ReplayEnded`."""
        row = await self.get(tenant, replay)
        if row.state is not ReplayState.RUNNING:
            raise ReplayEnded(row.state)
        return row

    async def run(
        self,
        tenant: str,
        replay: str,
        row: Replay,
        *,
        by: str | None = None,
        rate_per_s: float | None = None,
        on_step: Callable[[Replay], None] = ignore,
        on_wait: Callable[[LeaseHolder], None] = ignore,
    ) -> Replay:
        """Request every delivery that `row` has left.

        Args:
            by: The actor that wants the replay now, if not the one that began it.
            on_step: Called with the progress after each delivery.
            on_wait: Called with the tenant's replay that has to end first.

        Returns:
            The row at the end: finished or cancelled. After a failure or a cancellation of this call, the progress is
            stored as well.
        """
        options = ReplayOptions(
            tenant=tenant, replay=replay, by=by or row.by, rate_per_s=rate_per_s, on_step=on_step, on_wait=on_wait
        )
        stored = await self._find_or_store(tenant, replay, row)
        session = ReplaySession(self._connection, self._publisher, self._bucket, options, stored)
        stall = _StallDetector()
        while session.row.replay.state is ReplayState.RUNNING:
            try:
                await session.run()
            except (LeaseLost, ServerUnavailable) as error:
                _log.warning("replay.interrupted", tenant=tenant, replay=replay, error=str(error))
                await stall.wait(error, session.row.replay.cursor)
        return session.row.replay

    async def get(self, tenant: str, replay: str) -> Replay:
        """Return one replay's row. Raises `UnknownReplay`."""
        return (await self._rows.get(tenant, replay)).replay

    async def list(self, tenant: str) -> dict[str, Replay]:
        """Return the tenant's replays by id, oldest first."""
        return {row.id: row.replay for row in await self._rows.list(tenant)}

    async def list_page(self, tenant: str, *, limit: int, before: str | None = None) -> tuple[dict[str, Replay], bool]:
        """Return a page of the tenant's replays by id, newest first, and whether there are more."""
        rows, has_more = await self._rows.list_page(tenant, limit=limit, before=before)
        return {row.id: row.replay for row in rows}, has_more

    async def find_running(self, tenant: str) -> LeaseHolder | None:
        """Return the holder of the tenant's lease: the replay that runs now."""
        return await find_holder(self._bucket, tenant)

    async def cancel(self, tenant: str, replay: str, *, by: str, address: str | None = None) -> Replay:
        """Cancel a replay, and return its row. A running replay stops within a second.

        Raises `UnknownReplay` or `ReplayEnded`.
        """
        await self._rows.cancel(tenant, replay, by=by, address=address)
        with contextlib.suppress(TimeoutError):  # a process that was killed has the lease a little longer
            async with asyncio.timeout(TTL_S + 1):
                await self._wait_until_released(tenant, replay)
        row = await self._rows.get(tenant, replay)
        await ReplayAudit(self._publisher).ended(tenant, row, by=by)
        return row.replay

    async def _wait_until_released(self, tenant: str, replay: str) -> None:
        while True:
            running = await self.find_running(tenant)
            if running is None or running.replay != replay:
                return
            await asyncio.sleep(0.05)

    async def _count_unfinished(self, tenant: str) -> int:
        return len(await self.index.unfinished(tenant))

    async def _find_or_store(self, tenant: str, replay: str, row: Replay) -> ReplayRow:
        try:
            return await self._rows.get(tenant, replay)
        except UnknownReplay:
            return await self._rows.save(tenant, ReplayRow(replay, row))


class _StallDetector:
    """Raises when the cursor has not moved for `STALL_TIMEOUT_S`."""

    def __init__(self) -> None:
        self._cursor = -1
        self._since = 0.0

    async def wait(self, error: JetStreamError, cursor: int) -> None:
        """Wait a moment after `error`, or raise it when `cursor` has not moved for too long."""
        now = asyncio.get_running_loop().time()
        if cursor != self._cursor:
            self._cursor, self._since = cursor, now
        elif now - self._since > STALL_TIMEOUT_S:
            raise error
        await asyncio.sleep(_RETRY_S)
