"""The replays of a tenant as rows of a bucket.

Two processes may write a row: the one that runs the replay, and one that cancels it. Neither overwrites the other.

ReplayError
├── UnknownReplay   the tenant has no such replay
└── ReplayEnded     the replay is finished or cancelled already
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from messaging.client.errors import WriteConflict
from messaging.kv import KvBucket, KvTable, retry_conflicts
from schemas.configuration import Replay, ReplayState


class ReplayError(Exception):
    """A replay that can't be run or changed; the text says why."""


class UnknownReplay(ReplayError):
    """The tenant has no such replay."""

    def __init__(self) -> None:
        super().__init__("the tenant has no replay with this id; see `oneprotect replay --list`")


class ReplayEnded(ReplayError):
    """The replay is finished or cancelled already."""

    def __init__(self, state: ReplayState) -> None:
        super().__init__(f"this replay is {state} already")
        self.state: Final = state


class ReplayRow(msgspec.Struct, frozen=True):
    """A replay, its id, and the revision of its row (0 while it is not stored)."""

    id: str
    replay: Replay
    revision: int = 0

    def with_progress(self, replay: Replay) -> "ReplayRow":
        """Return this row with the progress of `replay`, cancelled if this row is."""
        if self.replay.state is ReplayState.CANCELLED:
            replay = msgspec.structs.replace(
                replay,
                state=ReplayState.CANCELLED,
                cancelled_by=self.replay.cancelled_by,
                cancelled_from=self.replay.cancelled_from,
                ended_at=self.replay.ended_at,
            )
        return ReplayRow(self.id, replay, self.revision)


class ReplayStore:
    """The rows of all tenants. Every method raises `JetStreamError` without an answer from NATS."""

    def __init__(self, bucket: KvBucket) -> None:
        self._rows = KvTable(bucket, Replay)

    async def get(self, tenant: str, replay: str) -> ReplayRow:
        """Return one replay. Raises `UnknownReplay`."""
        row = await self._rows.get(f"{tenant}.{replay}")
        if row is None:
            raise UnknownReplay
        return ReplayRow(replay, row.value, row.revision)

    async def list_page(self, tenant: str, *, limit: int, before: str | None) -> tuple[list[ReplayRow], bool]:
        """Return the newest `limit` replays with an id before `before`, newest first, and whether there are more."""
        rows, has_more = await self._rows.list_page(
            f"{tenant}.*", limit=limit, after=None if before is None else f"{tenant}.{before}", descending=True
        )
        return [ReplayRow(row.id, row.value, row.revision) for row in rows], has_more

    async def list(self, tenant: str) -> list[ReplayRow]:
        """Return the tenant's replays, oldest first."""
        return [ReplayRow(row.id, row.value, row.revision) for row in await self._rows.list(f"{tenant}.*")]

    async def save(self, tenant: str, row: ReplayRow) -> ReplayRow:
        """Store the progress of a running replay. Returns the stored row, cancelled if another process did that."""
        try:
            return await self._write(tenant, row)
        except WriteConflict:
            pass

        async def write() -> ReplayRow:
            return await self._write(tenant, (await self.get(tenant, row.id)).with_progress(row.replay))

        return await retry_conflicts(write)

    async def cancel(self, tenant: str, replay: str, *, by: str, address: str | None = None) -> ReplayRow:
        """Mark a replay as cancelled. Raises `UnknownReplay` or `ReplayEnded`."""

        def change(current: Replay | None) -> Replay:
            if current is None:
                raise UnknownReplay
            if current.state is not ReplayState.RUNNING:
                raise ReplayEnded(current.state)
            return msgspec.structs.replace(
                current,
                state=ReplayState.CANCELLED,
                cancelled_by=by,
                cancelled_from=address,
                ended_at=datetime.now(UTC),
            )

        row = await self._rows.update(f"{tenant}.{replay}", change)
        return ReplayRow(replay, row.value, row.revision)

    async def _write(self, tenant: str, row: ReplayRow) -> ReplayRow:
        revision = await self._rows.put(f"{tenant}.{row.id}", row.replay, revision=row.revision)
        return ReplayRow(row.id, row.replay, revision)
