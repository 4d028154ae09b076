"""Replays as they are kept in their bucket: one row each.

Two may write a row, the one that runs the replay and one that cancels it; neither overwrites what it has not seen.

ReplayError
├── UnknownReplay   the tenant has no such replay
└── ReplayEnded     it is finished or cancelled already
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

import msgspec

from messaging.client.errors import WRONG_LAST_SEQUENCE, RejectedByServer, ServerUnavailable
from messaging.kv import KvBucket, KvEntry
from schemas.configuration import Replay, ReplayState

MAX_TRIES: Final = 20
PAUSE_S: Final = 0.05


class ReplayError(Exception):
    """A replay that can't be had; the text says why."""


class UnknownReplay(ReplayError):
    """The tenant has no such replay."""

    def __init__(self) -> None:
        super().__init__("the tenant has no replay of this id; see `oneprotect replay --list`")


class ReplayEnded(ReplayError):
    """It is finished or cancelled already."""

    def __init__(self, state: ReplayState) -> None:
        super().__init__(f"this replay is {state} already")
        self.state: Final = state


class ReplayRow(msgspec.Struct, frozen=True):
    """A replay, its id, and the revision of its row (0 while it is not stored)."""

    id: str
    replay: Replay
    revision: int = 0

    def with_progress(self, replay: Replay) -> "ReplayRow":
        """What to store instead of this, now that it has come as far as `replay`: cancelled if this is."""
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
    """The rows of all tenants. Any method raises `JetStreamError` when NATS can't be asked."""

    def __init__(self, bucket: KvBucket) -> None:
        self._bucket = bucket

    async def get(self, tenant: str, replay: str) -> ReplayRow:
        """One of them. Raises `UnknownReplay`."""
        entry = await self._bucket.get(f"{tenant}.{replay}")
        row = _row(entry) if entry else None
        if row is None:
            raise UnknownReplay
        return row

    async def list(self, tenant: str) -> list[ReplayRow]:
        """The tenant's, the oldest first."""
        rows = (_row(entry) for entry in await self._bucket.list(f"{tenant}.*"))
        return [row for row in rows if row is not None]

    async def save(self, tenant: str, row: ReplayRow) -> ReplayRow:
        """Store `row` for who runs it. Returns what is stored then: cancelled if it was so in between."""
        for _ in range(MAX_TRIES):
            stored = await self._write(tenant, row)
            if stored is not None:
                return stored
            row = (await self.get(tenant, row.id)).with_progress(row.replay)
        raise ServerUnavailable("a replay's progress could not be stored: its row keeps changing")

    async def cancel(self, tenant: str, replay: str, *, by: str, address: str | None = None) -> ReplayRow:
        """Mark it as cancelled. Raises `UnknownReplay` or `ReplayEnded`."""
        for _ in range(MAX_TRIES):
            current = await self.get(tenant, replay)
            if current.replay.state is not ReplayState.RUNNING:
                raise ReplayEnded(current.replay.state)
            cancelled = msgspec.structs.replace(
                current.replay,
                state=ReplayState.CANCELLED,
                cancelled_by=by,
                cancelled_from=address,
                ended_at=datetime.now(UTC),
            )
            stored = await self._write(tenant, ReplayRow(replay, cancelled, current.revision))
            if stored is not None:
                return stored
        raise ServerUnavailable("the replay could not be cancelled: its row keeps changing")

    async def _write(self, tenant: str, row: ReplayRow) -> ReplayRow | None:
        """The row as it is stored now; None, after a moment, when it was another one meanwhile."""
        try:
            revision = await self._bucket.put(
                f"{tenant}.{row.id}", msgspec.json.encode(row.replay), revision=row.revision
            )
        except RejectedByServer as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
        else:
            return ReplayRow(row.id, row.replay, revision)
        await asyncio.sleep(PAUSE_S)  # what is read may come from a replica that is a little behind
        return None


def _row(entry: KvEntry) -> ReplayRow | None:
    try:
        replay = msgspec.json.decode(entry.value or b"", type=Replay)
    except msgspec.DecodeError:  # stored by another version of this program
        return None
    return ReplayRow(entry.key.partition(".")[2], replay, entry.revision)
