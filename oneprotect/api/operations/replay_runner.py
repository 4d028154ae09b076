"""Replays in the background of API processes.

The bucket holds all replays and their progress (`consumers.replay.service`). Each process adopts unfinished replays
that no process runs, so that the replays of an ended process continue.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from consumers.replay.service import ReplayService
from consumers.replay.store import ReplayError, ReplayRow, ReplayStore
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.lease import find_holder
from messaging.periodic import run_every
from schemas.configuration import Replay, ReplayFilter, ReplayState

ADOPT_INTERVAL_S: Final = 3.0
LIST_INTERVAL_S: Final = 300.0
"""Time after which all replays are listed again, in case an announcement was lost."""

_log = structlog.get_logger(__name__)


class ReplayRunner:
    """The replays that this process runs."""

    def __init__(self, service: ReplayService, bucket: KvBucket) -> None:
        self._service = service
        self._replays = KvTable(bucket, Replay)
        self._rows = ReplayStore(bucket)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unfinished: dict[str, Replay] = {}
        """Replays that some process has to run, by key."""
        self._list_at = 0.0

    async def begin(
        self, tenant: str, chosen: ReplayFilter, *, by: str, address: str, rate_per_s: float | None
    ) -> tuple[str, Replay]:
        """Start a replay, or resume the unfinished one with the same filter. Raises `JetStreamError`."""
        replay, row = await self._service.begin(tenant, chosen, by=by)
        stored = await self._find(tenant, replay)
        begun = msgspec.structs.replace(
            row,
            rate_per_s=rate_per_s,
            unattended=True,
            address=row.address if stored else address,
            total=row.total if row.total is not None else await self._service.count_remaining(tenant, row),
        )
        saved = await self._rows.save(tenant, ReplayRow(replay, begun, stored.revision if stored else 0))
        self._start(tenant, replay, saved.replay)
        return replay, saved.replay

    async def run(self) -> None:
        """Adopt the replays of ended processes until cancelled."""
        await self._replays.bucket.on_change(self._receive)
        try:
            await run_every(ADOPT_INTERVAL_S, self._adopt, asyncio.Event(), failure_event="replays.unreadable")
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def list_again(self) -> None:
        """List all replays in the next round: announcements may have been lost."""
        self._list_at = 0.0

    async def _receive(self, entry: KvEntry) -> None:
        if entry.key.count(".") == 1:  # not a lease
            self._note(entry.key, self._replays.decode(entry))

    def _note(self, key: str, row: Replay | None) -> None:
        if row is not None and row.unattended and row.state is ReplayState.RUNNING:
            self._unfinished[key] = row
        else:
            self._unfinished.pop(key, None)

    async def _adopt(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._list_at <= now:
            for stored in await self._replays.list("*.*"):
                self._note(stored.key, stored.value)
            self._list_at = now + LIST_INTERVAL_S
        for key, row in list(self._unfinished.items()):
            tenant, _, replay = key.partition(".")
            if key not in self._running and not await find_holder(self._replays.bucket, tenant):
                _log.info("replay.adopted", tenant=tenant, replay=replay)
                self._unfinished.pop(key, None)  # the progress of a running replay adds it again
                self._start(tenant, replay, row)

    def _start(self, tenant: str, replay: str, row: Replay) -> None:
        key = f"{tenant}.{replay}"
        if key not in self._running:
            task = self._running[key] = asyncio.create_task(self._run(tenant, replay, row), name=f"replay {key}")
            task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _run(self, tenant: str, replay: str, row: Replay) -> None:
        try:
            await self._service.run(tenant, replay, row, rate_per_s=row.rate_per_s)
        except (JetStreamError, ReplayError) as error:  # its progress is stored, and a process adopts it again
            _log.warning("replay.failed", tenant=tenant, replay=replay, error=str(error))
        except Exception as error:  # noqa: BLE001 - nothing else awaits the task
            _log.exception("replay.crashed", tenant=tenant, replay=replay, exc_info=error)

    async def _find(self, tenant: str, replay: str) -> ReplayRow | None:
        with contextlib.suppress(ReplayError):
            return await self._rows.get(tenant, replay)
        return None
