"""Kept deliveries, those that failed or were skipped and those that were delivered: which of them a filter takes."""

import sys
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Final

import msgspec

from consumers.model.request import RetryState
from consumers.retention import archive
from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.reverse_reader import PageResult, Take, read_last, read_page_backwards
from schemas import streams, subjects
from schemas.configuration import ReplayFilter
from schemas.events import decode_request
from schemas.headers import HEADER_CODE, HEADER_OUTCOME

BATCH: Final = 1024
PACKS: Final = 64
"""Packs of delivered ones that are read at a time: some 8 MB at most, but for very large payloads."""


class RetainedDelivery(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A kept delivery without its payload, so that a hundred thousand of them fit into memory.

    `attempt` is the last that was made, `sequence` its place in the stream. `superseded`: a later attempt has been
    made or asked for since, so it is left alone. `is_last_in_batch`: no other delivery under this sequence matched.
    """

    id: str
    tenant: str
    destination: str
    event_type: str
    code: str
    outcome: str
    attempt: int
    sequence: int
    stored_at: datetime
    superseded: bool = False
    is_last_in_batch: bool = True

    @classmethod
    def from_message(cls, tenant: str, record: direct_get.StoredMessage) -> "RetainedDelivery | None":
        """What `record` holds; None when another version of this program has kept it."""
        try:
            asked = decode_request(record.data)
            attempt = RetryState.from_headers(record.headers).attempt
        except ValueError:
            return None
        # Few names for many deliveries: interned, each is in memory once.
        return cls(
            id=asked.id,
            tenant=tenant,
            destination=sys.intern(asked.data.destination),
            event_type=sys.intern(asked.data.event_type),
            code=sys.intern(record.headers.get(HEADER_CODE, "")),
            outcome=sys.intern(record.headers.get(HEADER_OUTCOME, "")),
            attempt=attempt,
            sequence=record.sequence,
            stored_at=record.stored_at,
        )

    @property
    def key(self) -> str:
        """Names the delivery among all of its tenant: the same id goes to several destinations."""
        return f"{self.destination}.{self.id}"


class RetainedRecord(msgspec.Struct, frozen=True, gc=False):
    """A kept delivery, and all that is stored of it."""

    delivery: RetainedDelivery
    message: direct_get.StoredMessage


def stream_for(chosen: ReplayFilter) -> streams.StreamConfig:
    """The stream that holds what `chosen` takes."""
    return streams.DELIVERED if chosen.takes_delivered else streams.FAILED


def subject_for(tenant: str, chosen: ReplayFilter) -> str:
    """The subjects that hold what `chosen` takes, and other things besides."""
    if chosen.takes_delivered:
        return subjects.delivered(tenant, chosen.destination or "*")
    patterns = {subjects.failed(tenant, chosen.destination or "*", delivery) for delivery in chosen.ids}
    return patterns.pop() if len(patterns) == 1 else subjects.failed(tenant, chosen.destination or "*", "*")


def matches(kept: RetainedDelivery, chosen: ReplayFilter) -> bool:
    """Whether every condition of `chosen` holds for `kept`."""
    return (
        (chosen.destination is None or kept.destination == chosen.destination)
        and (chosen.since is None or kept.stored_at >= chosen.since)
        and (chosen.until is None or kept.stored_at < chosen.until)
        and (not chosen.codes or kept.code in chosen.codes)
        and (not chosen.event_types or kept.event_type in chosen.event_types)
        and (not chosen.ids or kept.id in chosen.ids)
        and (not chosen.outcomes or kept.outcome in chosen.outcomes)
    )


async def scan(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, after: int = 0, until: int | None = None
) -> AsyncIterator[RetainedRecord]:
    """What `chosen` takes, oldest first: behind stream sequence `after`, up to and with `until`."""
    records = direct_get.scan(
        connection,
        stream_for(chosen).name,
        subject_for(tenant, chosen),
        first_sequence=after + 1,
        since=None if after else chosen.since,
        batch=PACKS if chosen.takes_delivered else BATCH,
    )
    async for record in records:
        if until is not None and record.sequence > until:
            return
        for found in _taken(tenant, chosen, record):
            yield found


def _taken(tenant: str, chosen: ReplayFilter, record: direct_get.StoredMessage) -> Iterable[RetainedRecord]:
    """What `chosen` takes of what is stored in one message."""
    taken: list[RetainedRecord] = []
    for one in archive.read_archive_batch(record) if chosen.takes_delivered else (record,):
        kept = RetainedDelivery.from_message(tenant, one)
        if kept is not None and matches(kept, chosen):
            taken.append(RetainedRecord(kept, one))
    for found in taken[:-1]:
        yield RetainedRecord(msgspec.structs.replace(found.delivery, is_last_in_batch=False), found.message)
    yield from taken[-1:]


async def read_newest(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> list[RetainedRecord]:
    """The newest `limit` that failed or were skipped and `chosen` takes, newest first, before a stream sequence."""
    return await read_last(
        connection,
        streams.FAILED.name,
        subject_for(tenant, chosen),
        _taking(tenant, chosen),
        limit=limit,
        before=before,
        since=chosen.since,
    )


async def read_page(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> PageResult[RetainedRecord]:
    """The same with bounded work: see `PageResult` for how to go on."""
    return await read_page_backwards(
        connection,
        streams.FAILED.name,
        subject_for(tenant, chosen),
        _taking(tenant, chosen),
        limit=limit,
        before=before,
        since=chosen.since,
        until=chosen.until,
    )


def _taking(tenant: str, chosen: ReplayFilter) -> Take[RetainedRecord]:
    def take(record: direct_get.StoredMessage) -> RetainedRecord | None:
        kept = RetainedDelivery.from_message(tenant, record)
        return RetainedRecord(kept, record) if kept is not None and matches(kept, chosen) else None

    return take
