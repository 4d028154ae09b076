"""A session of a replay: waits for the tenant's lease, runs, and keeps lease and progress stored meanwhile."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from consumers.replay.run import Pacer, ReplayRun, shield_until_done
from consumers.replay.source import RetainedDeliverySource
from consumers.replay.store import ReplayError, ReplayRow, ReplayStore
from messaging.audit_events import publish_audit_event
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder, LeaseLost
from messaging.publisher import JetStreamPublisher
from schemas.configuration import Replay, ReplayState
from schemas.events import ReplayData, ReplayFinished, ReplayStarted

SOURCE: Final = "/oneprotect/replay"
SAVE_INTERVAL_S: Final = 0.5
"""Interval at which the progress is stored, the lease renewed, and a cancellation noticed."""
LEASE_POLL_S: Final = 0.2

_log = structlog.get_logger(__name__)


def ignore(_: object) -> None:
    """Do nothing: the default callback."""


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The replay to run, for whom, and how."""

    tenant: str
    replay: str
    by: str
    rate_per_s: float | None = None
    on_step: Callable[[Replay], None] = ignore
    """Called with the progress after each step."""
    on_wait: Callable[[LeaseHolder], None] = ignore
    """Called with the tenant's replay that has to end first."""


class ReplayAudit:
    """Audit events of replays: who started, resumed or cancelled one, and the result. Raises `JetStreamError`."""

    def __init__(self, publisher: JetStreamPublisher) -> None:
        self._publisher = publisher

    async def started(self, tenant: str, row: ReplayRow, *, by: str, session: int) -> None:
        """Publish that `by` started or resumed the replay. `session` distinguishes the starts of one replay."""
        event = ReplayStarted(data=_data(row, by), **_envelope(tenant, f"{row.id}.{session}"))
        await publish_audit_event(self._publisher, "replay.started", row.id, event)

    async def ended(self, tenant: str, row: ReplayRow, *, by: str) -> None:
        """Publish that the replay ended, if it did. Published twice, the event counts once."""
        if row.replay.state is ReplayState.RUNNING:
            return
        event = ReplayFinished(data=_data(row, row.replay.cancelled_by or by), **_envelope(tenant, f"{row.id}.ended"))
        await publish_audit_event(self._publisher, "replay.finished", row.id, event)


class ReplaySession:
    """A process's part in a replay: `run` waits for the lease, does the work and releases the lease.

    After an interruption, call `run` again.
    """

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        bucket: KvBucket,
        options: ReplayOptions,
        row: ReplayRow,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._rows = ReplayStore(bucket)
        self._audit = ReplayAudit(publisher)
        self._options = options
        self._pacer = Pacer(options.rate_per_s)
        holder = LeaseHolder(replay=options.replay, by=options.by, run=secrets.token_hex(8))
        self._lease = Lease(bucket, options.tenant, holder)
        self.row = row
        """The row as last stored."""

    async def run(self) -> None:
        """Wait for the lease, and do what remains of the replay.

        Raises `JetStreamError`, `LeaseLost` above all. However this ends, the progress is stored if possible.
        """
        options = self._options
        await self._wait_for_lease()
        row = self.row
        if row.replay.state is not ReplayState.RUNNING:
            return
        await self._audit.started(options.tenant, row, by=options.by, session=self._lease.revision)
        run = ReplayRun(
            source=RetainedDeliverySource(self._connection, options.tenant, row.replay.filter, replay=row.id),
            publisher=self._publisher,
            replay=row.id,
            row=row.replay,
            pacer=self._pacer,
            is_allowed=lambda: self._lease.is_held,
            on_step=options.on_step,
        )
        saving = asyncio.create_task(self._save_regularly(run))
        try:
            if row.replay.unattended:  # a command counts by itself
                await run.count()
            has_finished = await run.run()
        except BaseException:
            with contextlib.suppress(JetStreamError):
                await shield_until_done(self._end(run, saving, has_finished=False))
            raise
        await shield_until_done(self._end(run, saving, has_finished=has_finished))
        await self._audit.ended(options.tenant, self.row, by=options.by)

    async def _wait_for_lease(self) -> None:
        """Wait until this session has the lease, or until the replay has ended without it."""
        seen: LeaseHolder | None = None
        while await self._is_running():
            holder = await self._lease.acquire()
            if holder is None:
                if not await self._is_running():  # the session before ended it
                    await self._lease.release()
                return
            if holder != seen:
                self._options.on_wait(holder)
                seen = holder
            await asyncio.sleep(LEASE_POLL_S)

    async def _is_running(self) -> bool:
        self.row = await self._rows.get(self._options.tenant, self._options.replay)
        return self.row.replay.state is ReplayState.RUNNING

    async def _save_regularly(self, run: ReplayRun) -> None:
        """Keep lease and progress stored; stop the run when the lease is lost or the replay is cancelled."""
        try:
            while self.row.replay.state is ReplayState.RUNNING:
                await asyncio.sleep(SAVE_INTERVAL_S)
                try:
                    await self._lease.renew()
                    await self._save(run.row)
                except (LeaseLost, ReplayError):
                    raise
                except JetStreamError as error:  # the lease bounds how long this may last
                    _log.warning("replay.save_failed", replay=self.row.id, error=str(error))
        finally:
            run.stop()

    async def _end(self, run: ReplayRun, saving: asyncio.Task[None], *, has_finished: bool) -> None:
        """Store the progress, and release the lease."""
        saving.cancel()
        await asyncio.wait({saving})
        if not saving.cancelled() and (error := saving.exception()):
            raise error
        row = run.row
        if has_finished:
            row = msgspec.structs.replace(row, state=ReplayState.FINISHED, ended_at=datetime.now(UTC))
        await self._save(row)
        await self._lease.release()

    async def _save(self, replay: Replay) -> None:
        self.row = await self._rows.save(self._options.tenant, self.row.with_progress(replay))


def _data(row: ReplayRow, by: str) -> ReplayData:
    replay = row.replay
    requester = replay.address if by == replay.by else None
    return ReplayData(
        replay=row.id,
        by=by,
        address=requester if replay.cancelled_by is None else replay.cancelled_from,
        replayed=replay.replayed,
        skipped=replay.skipped,
        state=replay.state.value,
    )


def _envelope(tenant: str, event: str) -> dict[str, Any]:
    return {"specversion": "1.0", "id": event, "source": SOURCE, "time": datetime.now(UTC), "tenant": tenant}
