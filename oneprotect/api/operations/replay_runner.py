"""Runs replays in the background of API processes. A process that ends, however it does, leaves them to another one.

Which replays there are, and how far each has come, is in the bucket alone (`consumers.replay.service`): a process looks there
for those that nobody runs.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from consumers.replay.service import ReplayService
from consumers.replay.store import ReplayError, ReplayRow, ReplayStore
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.lease import find_holder
from messaging.periodic import run_every
from schemas.configuration import Replay, ReplayFilter, ReplayState

LOOK_S: Final = 3.0

_log = structlog.get_logger(__name__)


class ReplayRunner:
    """The replays that this process runs."""

    def __init__(self, replayer: ReplayService, bucket: KvBucket) -> None:
        self._replayer = replayer
        self._replays = KvTable(bucket, Replay)
        self._rows = ReplayStore(bucket)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def begin(
        self, tenant: str, chosen: ReplayFilter, *, by: str, address: str, rate_per_s: float | None
    ) -> tuple[str, Replay]:
        """Start a replay, or go on with the unfinished one that has the same filter. Raises `JetStreamError`."""
        replay, row = await self._replayer.begin(tenant, chosen, by=by)
        stored = await self._find(tenant, replay)
        begun = msgspec.structs.replace(
            row,
            rate_per_s=rate_per_s,
            unattended=True,
            address=row.address if stored else address,
            total=row.total if row.total is not None else await self._total(tenant, row),
        )
        saved = await self._rows.save(tenant, ReplayRow(replay, begun, stored.revision if stored else 0))
        self._start(tenant, replay, saved.replay)
        return replay, saved.replay

    async def run(self) -> None:
        """Go on with what other processes have left, until cancelled."""
        try:
            await run_every(LOOK_S, self._adopt, asyncio.Event(), failure_event="replays.unreadable")
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _adopt(self) -> None:
        for row in await self._replays.list("*.*"):
            tenant, _, replay = row.key.partition(".")
            is_unfinished = row.value.unattended and row.value.state is ReplayState.RUNNING
            if row.key not in self._running and is_unfinished and not await find_holder(self._replays.bucket, tenant):
                _log.info("replay.adopted", tenant=tenant, replay=replay)
                self._start(tenant, replay, row.value)

    def _start(self, tenant: str, replay: str, row: Replay) -> None:
        key = f"{tenant}.{replay}"
        if key not in self._running:
            task = self._running[key] = asyncio.create_task(self._go(tenant, replay, row), name=f"replay {key}")
            task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _go(self, tenant: str, replay: str, row: Replay) -> None:
        try:
            await self._replayer.run(tenant, replay, row, rate_per_s=row.rate_per_s)
        except (JetStreamError, ReplayError) as error:  # its progress is kept, and it is looked at again
            _log.warning("replay.failed", tenant=tenant, replay=replay, error=str(error))
        except Exception as error:  # noqa: BLE001 - a task of its own: nobody else would hear of it
            _log.exception("replay.crashed", tenant=tenant, replay=replay, exc_info=error)

    async def _find(self, tenant: str, replay: str) -> ReplayRow | None:
        with contextlib.suppress(ReplayError):
            return await self._rows.get(tenant, replay)
        return None

    async def _total(self, tenant: str, row: Replay) -> int:
        return await self._replayer.count_remaining(tenant, row)
