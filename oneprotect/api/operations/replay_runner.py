"""Replays in the background of API processes.

The bucket holds all replays and their progress (`consumers.replay.service`). Each process runs one replay of a tenant
at a time, and adopts unfinished replays that no process runs. So the replays of an ended process continue.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from consumers.replay.service import ReplayService
from consumers.replay.store import ReplayError, ReplayRow, ReplayStore
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvEntry
from messaging.periodic import run_every
from messaging.tenant_turns import FairTurns
from schemas.configuration import Replay, ReplayFilter

ADOPT_INTERVAL_S: Final = 3.0

_log = structlog.get_logger(__name__)


class ReplayRunner:
    """The replays that this process runs."""

    def __init__(self, service: ReplayService, bucket: KvBucket) -> None:
        self._service = service
        self._rows = ReplayStore(bucket)
        self._beginning = FairTurns(per_tenant=1)
        self._running: dict[str, asyncio.Task[None]] = {}
        """By tenant. Its other replays wait in the bucket, so that a tenant's rows take little memory."""

    async def begin(
        self, tenant: str, chosen: ReplayFilter, *, by: str, address: str, rate_per_s: float | None
    ) -> tuple[str, Replay]:
        """Start a replay, or resume the unfinished one with the same filter. Raises `JetStreamError`."""
        async with self._beginning.turn(tenant):
            replay, row = await self._service.begin(tenant, chosen, by=by)
            stored = await self._find(tenant, replay)
            begun = msgspec.structs.replace(
                row, rate_per_s=rate_per_s, unattended=True, address=row.address if stored else address
            )
            saved = await self._rows.save(tenant, ReplayRow(replay, begun, stored.revision if stored else 0))
            entry = KvEntry(f"{tenant}.{replay}", msgspec.json.encode(saved.replay), saved.revision)
            await self._service.index.receive(entry)
        self._start(tenant, saved)
        return replay, saved.replay

    async def run(self) -> None:
        """Adopt the replays of ended processes until cancelled."""
        try:
            await run_every(ADOPT_INTERVAL_S, self._adopt, asyncio.Event(), failure_event="replays.unreadable")
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _adopt(self) -> None:
        for tenant, replay, summary in await self._service.index.all_unfinished():
            if not summary.unattended or tenant in self._running or await self._service.find_running(tenant):
                continue
            if row := await self._find(tenant, replay):
                _log.info("replay.adopted", tenant=tenant, replay=replay)
                self._start(tenant, row)

    def _start(self, tenant: str, row: ReplayRow) -> None:
        if tenant not in self._running:
            task = self._running[tenant] = asyncio.create_task(self._run(tenant, row), name=f"replays of {tenant}")
            task.add_done_callback(lambda _: self._running.pop(tenant, None))

    async def _run(self, tenant: str, row: ReplayRow | None) -> None:
        """Run a replay, and then those of the tenant that have waited."""
        try:
            while row is not None:
                await self._service.run(tenant, row.id, row.replay, rate_per_s=row.replay.rate_per_s)
                row = await self._find_next(tenant, row.id)
        except (JetStreamError, ReplayError) as error:  # its progress is stored, and a process adopts it again
            _log.warning("replay.failed", tenant=tenant, replay=row and row.id, error=str(error))
        except Exception as error:  # noqa: BLE001 - nothing else awaits the task
            _log.exception("replay.crashed", tenant=tenant, replay=row and row.id, exc_info=error)

    async def _find_next(self, tenant: str, last: str) -> ReplayRow | None:
        for replay, summary in (await self._service.index.unfinished(tenant)).items():
            if summary.unattended and replay != last:
                return await self._find(tenant, replay)
        return None

    async def _find(self, tenant: str, replay: str) -> ReplayRow | None:
        with contextlib.suppress(ReplayError):
            return await self._rows.get(tenant, replay)
        return None
