"""Replay: kept deliveries are requested once more, with the same id, their attempts counting on.

A replay is a row in a bucket with a cursor over the kept deliveries, so that one that was interrupted goes on where it
stopped. Nothing is asked for twice, neither by the same replay after a crash nor by two whose filters overlap:

- One replay of a tenant runs at a time, by a lease in the same bucket, under the key `<tenant>` (`messaging.lease`).
  Another one waits for it.
- Whoever has the lease looks first, in the streams themselves, at what has been attempted or asked for since a delivery
  was kept (`consumers.replay.superseded`). Nobody else asks while it works, so what it has seen stays true.
- The cursor moves over what is stored, in order (`consumers.replay.window`). What was stored beyond it when a process died is
  found by that same look. `Nats-Msg-Id` holds the replay's id, for a request whose acknowledgement alone got lost.

A lease that is lost, or a server that does not answer for a while, is treated like a crash: look again, and go on.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from consumers.replay.audit import ReplayAudit
from consumers.replay.session import ReplayOptions, ReplaySession, ignore
from consumers.replay.source import RetainedDeliverySource
from consumers.replay.store import ReplayEnded, ReplayRow, ReplayStore, UnknownReplay
from consumers.replay.superseded import SupersededPage
from consumers.retention import retained
from consumers.retention.retained import RetainedDelivery
from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.kv import KvBucket
from messaging.lease import TTL_S, LeaseHolder, LeaseLost, find_holder
from messaging.publisher import JetStreamPublisher
from schemas.configuration import Replay, ReplayFilter, ReplayState
from schemas.ids import new_replay_id

PATIENCE_S: Final = 60.0
"""How long a replay keeps trying without getting anywhere."""
_PAUSE_S: Final = 1.0

_log = structlog.get_logger(__name__)


class ReplayService:
    """Finds kept deliveries and requests them again. Any method raises `JetStreamError` when NATS can't be asked."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, replays: KvBucket) -> None:
        self._connection = connection
        self._publisher = publisher
        self._bucket = replays
        self._rows = ReplayStore(replays)

    def find_pages(self, tenant: str, chosen: ReplayFilter) -> AsyncIterator[SupersededPage]:
        """What a replay with this filter would find, oldest first, in pages that are looked up together."""
        return RetainedDeliverySource(self._connection, tenant, chosen).find_pages()

    async def find_deliveries(self, tenant: str, chosen: ReplayFilter) -> AsyncIterator[RetainedDelivery]:
        """The same one by one."""
        async for page in self.find_pages(tenant, chosen):
            for one in page.marked_deliveries():
                yield one

    async def count_remaining(self, tenant: str, row: Replay) -> int:
        """How many kept deliveries `row` has before it, those included that it will leave alone."""
        found = RetainedDeliverySource(self._connection, tenant, row.filter).scan(
            after=row.cursor, until=row.until_sequence
        )
        count = 0
        async for _ in found:
            count += 1
        return count

    async def begin(self, tenant: str, chosen: ReplayFilter, *, by: str) -> tuple[str, Replay]:
        """The id and row of an unfinished replay with the same filter, or else of a new one."""
        for row in await self._rows.list(tenant):
            if row.replay.state is ReplayState.RUNNING and row.replay.filter == chosen:
                return row.id, row.replay
        until = (await management.stream_info(self._connection, retained.stream_for(chosen).name)).state.last_seq
        return new_replay_id(), Replay(filter=chosen, by=by, started_at=datetime.now(UTC), until_sequence=until)

    async def resume(self, tenant: str, replay: str) -> Replay:
        """The row of an unfinished replay, for `run`. Raises `UnknownReplay` or `ReplayEnded`."""
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
        """Request everything that `row` still has to do, and return it as it is then: finished, or cancelled.

        `by`: who wants it now, if not who began it. `on_wait` is called with the tenant's replay that has to end first.
        When this is cancelled, or fails, the progress is kept.
        """
        stored = await self._stored(tenant, replay, row)
        orders = ReplayOptions(
            tenant=tenant,
            replay=replay,
            by=by or row.by,
            rate_per_s=rate_per_s,
            on_step=on_step,
            on_wait=on_wait,
        )
        turn = ReplaySession(self._connection, self._publisher, self._bucket, orders, stored)
        patience = _StallDetector()
        while turn.row.replay.state is ReplayState.RUNNING:
            try:
                await turn.run()
            except (LeaseLost, ServerUnavailable) as error:
                _log.warning("replay.interrupted", tenant=tenant, replay=replay, error=str(error))
                await patience.wait(error, turn.row.replay.cursor)
        return turn.row.replay

    async def get(self, tenant: str, replay: str) -> Replay:
        """One replay's row. Raises `UnknownReplay`."""
        return (await self._rows.get(tenant, replay)).replay

    async def list(self, tenant: str) -> dict[str, Replay]:
        """The tenant's replays by id, the oldest first."""
        return {row.id: row.replay for row in await self._rows.list(tenant)}

    async def find_running(self, tenant: str) -> LeaseHolder | None:
        """Which of them runs right now."""
        return await find_holder(self._bucket, tenant)

    async def cancel(self, tenant: str, replay: str, *, by: str, address: str | None = None) -> Replay:
        """Have it stop, within a second if it runs, and return how far it came.

        Raises `UnknownReplay` or `ReplayEnded`.
        """
        await self._rows.cancel(tenant, replay, by=by, address=address)
        with contextlib.suppress(TimeoutError):  # a process that was killed has the lease a little longer
            async with asyncio.timeout(TTL_S + 1):
                await self._until_idle(tenant, replay)
        row = await self._rows.get(tenant, replay)
        await ReplayAudit(self._publisher).ended(tenant, row, by=by)
        return row.replay

    async def _until_idle(self, tenant: str, replay: str) -> None:
        while True:
            running = await self.find_running(tenant)
            if running is None or running.replay != replay:
                return
            await asyncio.sleep(0.05)

    async def _stored(self, tenant: str, replay: str, row: Replay) -> ReplayRow:
        try:
            return await self._rows.get(tenant, replay)
        except UnknownReplay:
            pass
        return await self._rows.save(tenant, ReplayRow(replay, row))


class _StallDetector:
    """Ends when nothing has moved for a while."""

    def __init__(self) -> None:
        self._cursor = -1
        self._since = 0.0

    async def wait(self, error: JetStreamError, cursor: int) -> None:
        """Wait a moment after `error`, which is raised when `cursor` has stood still for too long."""
        now = asyncio.get_running_loop().time()
        if cursor != self._cursor:
            self._cursor, self._since = cursor, now
        elif now - self._since > PATIENCE_S:
            raise error
        await asyncio.sleep(_PAUSE_S)
