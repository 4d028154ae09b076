"""Replay: kept deliveries are requested once more, with the same id, their attempts counting on.

A replay is a row in a bucket with a cursor over the kept deliveries, so that one that was interrupted goes on where it
stopped. What it requests carries the replay's id in its `Nats-Msg-Id`, so the step in between is not done twice.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from consumers.progress import Progress
from oneprotect.jetstream import read
from oneprotect.jetstream.bucket import Bucket
from oneprotect.jetstream.connection import Connection
from oneprotect.jetstream.publish import Publisher
from oneprotect.jetstream.requests import request
from schemas import subjects
from schemas.config import Replay, ReplayFilter, ReplayState
from schemas.events import (
    CONTENT_TYPE,
    CloudEvent,
    ReplayData,
    ReplayFinished,
    ReplayStarted,
    decode_request,
    decode_result,
    encode,
)
from schemas.ids import bucket_of, new_replay_id

SAVE_EVERY: Final = 50
SOURCE: Final = "/oneprotect/replay"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A kept delivery: failed or skipped. `superseded`: it has been attempted again since, so it is left alone."""

    id: str
    tenant: str
    destination: str
    event_type: str
    code: str
    progress: Progress
    record: read.Record
    superseded: bool = False


class Replayer:
    """Finds kept deliveries and requests them again."""

    def __init__(self, connection: Connection, publisher: Publisher, replays: Bucket) -> None:
        self._connection = connection
        self._publisher = publisher
        self._replays = replays

    async def kept(self, tenant: str, chosen: ReplayFilter, *, after: int = 0) -> AsyncIterator[Kept]:
        """The kept deliveries of `tenant` that `chosen` takes, oldest first, behind stream sequence `after`."""
        attempts: dict[tuple[str, str], int] | None = None
        scan = read.scan(
            self._connection,
            subjects.FAILED.name,
            _subject(tenant, chosen),
            first_sequence=after + 1,
            since=None if after else chosen.since,
        )
        async for record in scan:
            kept = _kept(tenant, record)
            if kept is None or not _matches(kept, chosen):
                continue
            if attempts is None:
                attempts = await self._latest_attempts(tenant, chosen, since=record.stored_at)
            latest = attempts.get((kept.destination, kept.id), 0)
            yield msgspec.structs.replace(kept, superseded=latest > kept.progress.attempt)

    async def begin(self, tenant: str, chosen: ReplayFilter, *, by: str) -> tuple[str, Replay]:
        """The id and row of an unfinished replay with the same filter, or else of a new one."""
        for entry in await self._replays.list(f"{tenant}.*"):
            row = msgspec.json.decode(entry.value or b"{}", type=Replay)
            if row.state is ReplayState.RUNNING and row.filter == chosen:
                return entry.key.partition(".")[2], row
        info = await self._connection.api(f"STREAM.INFO.{subjects.FAILED.name}")
        row = Replay(filter=chosen, by=by, started_at=datetime.now(UTC), until_sequence=int(info["state"]["last_seq"]))
        return new_replay_id(), row

    async def run(
        self,
        tenant: str,
        replay: str,
        row: Replay,
        *,
        rate_per_s: float | None = None,
        on_step: Callable[[Replay], None] = lambda _: None,
    ) -> Replay:
        """Request everything that `row` still has to do. Its progress is kept, also when this is cancelled."""
        await self._save(tenant, replay, row)
        await self._announce(ReplayStarted, tenant, replay, row)
        began = asyncio.get_running_loop().time()
        requested = 0
        try:
            async for kept in self.kept(tenant, row.filter, after=row.cursor):
                if kept.record.sequence > row.until_sequence:
                    break
                if not kept.superseded:
                    await self._request(kept, replay)
                    requested += 1
                row = _step(row, kept)
                on_step(row)
                if (row.replayed + row.skipped) % SAVE_EVERY == 0:
                    await self._save(tenant, replay, row)
                if rate_per_s:
                    ahead_s = requested / rate_per_s - (asyncio.get_running_loop().time() - began)
                    await asyncio.sleep(max(0.0, ahead_s))
            row = msgspec.structs.replace(row, state=ReplayState.FINISHED)
        finally:
            await asyncio.shield(self._save(tenant, replay, row))
        await self._announce(ReplayFinished, tenant, replay, row)
        return row

    async def _request(self, kept: Kept, replay: str) -> None:
        attempt = kept.progress.attempt + 1
        progress = msgspec.structs.replace(
            kept.progress, attempt=attempt, replay=replay, replay_from=attempt, secret_waits=0
        )
        headers = progress.onward(kept.record.headers) | {
            subjects.HEADER_MSG_ID: progress.msg_id(subjects.msg_id(kept.tenant, kept.destination, kept.id))
        }
        await request(self._publisher, kept.tenant, kept.destination, kept.record.data, headers)

    async def _latest_attempts(
        self, tenant: str, chosen: ReplayFilter, *, since: datetime
    ) -> dict[tuple[str, str], int]:
        """The highest attempt on record by destination and delivery, as far back as `since`."""
        subject = f"oneprotect.delivery.attempted.{tenant}.{chosen.destination or '*'}.{_bucket(chosen)}"
        latest: dict[tuple[str, str], int] = {}
        async for record in read.scan(self._connection, subjects.ATTEMPTS.name, subject, since=since):
            try:
                result = decode_result(record.data).data
            except msgspec.DecodeError:
                continue
            key = (result.destination, result.delivery)
            latest[key] = max(latest.get(key, 0), result.attempt)
        return latest

    async def _save(self, tenant: str, replay: str, row: Replay) -> None:
        await self._replays.put(f"{tenant}.{replay}", msgspec.json.encode(row))

    async def _announce(
        self, kind: type[ReplayStarted] | type[ReplayFinished], tenant: str, replay: str, row: Replay
    ) -> None:
        event: CloudEvent = kind(
            specversion="1.0",
            id=f"{replay}.{row.cursor}",
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=tenant,
            data=ReplayData(replay=replay, by=row.by, replayed=row.replayed, skipped=row.skipped),
        )
        word = "started" if kind is ReplayStarted else "finished"
        subject = subjects.operational(f"replay.{word}", tenant, replay)
        await self._publisher.put(subject, encode(event), {"content-type": CONTENT_TYPE})


def _step(row: Replay, kept: Kept) -> Replay:
    return msgspec.structs.replace(
        row,
        cursor=kept.record.sequence,
        replayed=row.replayed + (not kept.superseded),
        skipped=row.skipped + kept.superseded,
    )


def _subject(tenant: str, chosen: ReplayFilter) -> str:
    return f"oneprotect.delivery.failed.{tenant}.{chosen.destination or '*'}.{_bucket(chosen)}"


def _bucket(chosen: ReplayFilter) -> str:
    buckets = {bucket_of(delivery) for delivery in chosen.ids}
    return buckets.pop() if len(buckets) == 1 else "*"


def _kept(tenant: str, record: read.Record) -> Kept | None:
    try:
        asked = decode_request(record.data)
        progress = Progress.read(record.headers)
    except ValueError:  # kept by another version of this program
        return None
    return Kept(
        id=asked.id,
        tenant=tenant,
        destination=asked.data.destination,
        event_type=asked.data.event_type,
        code=record.headers.get(subjects.HEADER_CODE, ""),
        progress=progress,
        record=record,
    )


def _matches(kept: Kept, chosen: ReplayFilter) -> bool:
    return (
        (chosen.since is None or kept.record.stored_at >= chosen.since)
        and (chosen.until is None or kept.record.stored_at < chosen.until)
        and (not chosen.codes or kept.code in chosen.codes)
        and (not chosen.event_types or kept.event_type in chosen.event_types)
        and (not chosen.ids or kept.id in chosen.ids)
    )
