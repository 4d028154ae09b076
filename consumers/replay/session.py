"""A replay's turn: waits for the tenant's lease, runs, and keeps lease and progress stored while it does."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from consumers.replay.audit import ReplayAudit
from consumers.replay.pacer import Pacer
from consumers.replay.run import ReplayRun, shield_until_done
from consumers.replay.source import RetainedDeliverySource
from consumers.replay.store import ReplayError, ReplayRow, ReplayStore
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder, LeaseLost
from messaging.publisher import JetStreamPublisher
from schemas.configuration import Replay, ReplayState

TICK_S: Final = 0.5
"""How often the progress is stored, the lease renewed, and a cancellation noticed."""
WAIT_S: Final = 0.2
"""How often one that waits for its turn looks whether it is."""

_log = structlog.get_logger(__name__)


def ignore(_: object) -> None:
    """Nobody wants to know."""


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which replay to run, for whom, and how."""

    tenant: str
    replay: str
    by: str
    rate_per_s: float | None = None
    on_step: Callable[[Replay], None] = ignore
    """Called with each step that is done."""
    on_wait: Callable[[LeaseHolder], None] = ignore
    """Called with the tenant's replay that has to end first."""


class ReplaySession:
    """Takes the lease, runs the replay, and gives the lease back. To be taken again when that was interrupted."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        bucket: KvBucket,
        orders: ReplayOptions,
        row: ReplayRow,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._rows = ReplayStore(bucket)
        self._audit = ReplayAudit(publisher)
        self._orders = orders
        self._pace = Pacer(orders.rate_per_s)
        self._lease = Lease(
            bucket, orders.tenant, LeaseHolder(replay=orders.replay, by=orders.by, run=secrets.token_hex(8))
        )

        self.row = row
        """As it was stored last."""

    async def run(self) -> None:
        """Wait for the lease, and do what there is to do. `row` is as it is stored then.

        Raises `JetStreamError`, `LeaseLost` above all; however it ends, what is done is stored if that can be.
        """
        orders = self._orders
        await self._wait()
        row = self.row
        if row.replay.state is not ReplayState.RUNNING:
            return
        await self._audit.started(orders.tenant, row, by=orders.by, turn=self._lease.revision)
        run = ReplayRun(
            source=RetainedDeliverySource(self._connection, orders.tenant, row.replay.filter, replay=row.id),
            publisher=self._publisher,
            replay=row.id,
            row=row.replay,
            pace=self._pace,
            is_allowed=lambda: self._lease.is_held,
            on_step=orders.on_step,
        )
        keeping = asyncio.create_task(self._keep(run))
        try:
            has_finished = await run.run()
        except BaseException:
            with contextlib.suppress(JetStreamError):
                await shield_until_done(self._end(run, keeping, has_finished=False))
            raise
        await shield_until_done(self._end(run, keeping, has_finished=has_finished))
        await self._audit.ended(orders.tenant, self.row, by=orders.by)

    async def _wait(self) -> None:
        """Wait until it is this replay's turn, or until it has ended without it."""
        seen: LeaseHolder | None = None
        while await self._is_running():
            holder = await self._lease.take()
            if holder is None:
                if not await self._is_running():  # the one before has ended it
                    await self._lease.release()
                return
            if holder != seen:
                self._orders.on_wait(holder)
                seen = holder
            await asyncio.sleep(WAIT_S)

    async def _is_running(self) -> bool:
        self.row = await self._rows.get(self._orders.tenant, self._orders.replay)
        return self.row.replay.state is ReplayState.RUNNING

    async def _keep(self, run: ReplayRun) -> None:
        """Keep lease and progress stored; stop the run when the lease is lost or the replay is cancelled."""
        try:
            while self.row.replay.state is ReplayState.RUNNING:
                await asyncio.sleep(TICK_S)
                try:
                    await self._lease.renew()
                    await self._save(run.row)
                except (LeaseLost, ReplayError):
                    raise
                except JetStreamError as error:  # how long that may go on, the lease says
                    _log.warning("replay.not_kept", replay=self.row.id, error=str(error))
        finally:
            run.stop()

    async def _end(self, run: ReplayRun, keeping: asyncio.Task[None], *, has_finished: bool) -> None:
        """Store how far it came, and give the lease back."""
        keeping.cancel()
        await asyncio.wait({keeping})
        if not keeping.cancelled() and (error := keeping.exception()):
            raise error
        row = run.row
        if has_finished:
            row = msgspec.structs.replace(row, state=ReplayState.FINISHED, ended_at=datetime.now(UTC))
        await self._save(row)
        await self._lease.release()

    async def _save(self, replay: Replay) -> None:
        self.row = await self._rows.save(self._orders.tenant, self.row.with_progress(replay))
