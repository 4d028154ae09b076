"""Retained deliveries, failed, skipped or delivered, and the match of a replay's filter against them."""

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
ARCHIVE_BATCH: Final = 64
"""Archive messages read at a time: some 8 MB at most, except with very large payloads."""


class RetainedDelivery(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A retained delivery without its payload, so that 100,000 of them fit into memory.

    `attempt` is the last one made, `sequence` the place in the stream. `superseded`: a later attempt was made or
    requested. `is_last_in_batch`: no other matching delivery has this sequence.
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
    def from_message(cls, tenant: str, message: direct_get.StoredMessage) -> "RetainedDelivery | None":
        """Decode a retained message. Returns None when another version of this program stored it."""
        try:
            request = decode_request(message.data)
            attempt = RetryState.from_headers(message.headers).attempt
        except ValueError:
            return None
        # Many deliveries share a few names: interned, each name is in memory once.
        return cls(
            id=request.id,
            tenant=tenant,
            destination=sys.intern(request.data.destination),
            event_type=sys.intern(request.data.event_type),
            code=sys.intern(message.headers.get(HEADER_CODE, "")),
            outcome=sys.intern(message.headers.get(HEADER_OUTCOME, "")),
            attempt=attempt,
            sequence=message.sequence,
            stored_at=message.stored_at,
        )

    @property
    def key(self) -> str:
        """The delivery's name within the tenant: several destinations may have a delivery with this id."""
        return f"{self.destination}.{self.id}"


class RetainedRecord(msgspec.Struct, frozen=True, gc=False):
    """A retained delivery with its message: body and headers."""

    delivery: RetainedDelivery
    message: direct_get.StoredMessage


def stream_for(chosen: ReplayFilter) -> streams.StreamConfig:
    """Return the stream with the deliveries that `chosen` matches."""
    return streams.DELIVERED if chosen.takes_delivered else streams.FAILED


def subject_for(tenant: str, chosen: ReplayFilter) -> str:
    """Return the narrowest subject pattern that covers everything `chosen` matches."""
    if chosen.takes_delivered:
        return subjects.delivered(tenant, chosen.destination or "*")
    patterns = {subjects.failed(tenant, chosen.destination or "*", delivery) for delivery in chosen.ids}
    return patterns.pop() if len(patterns) == 1 else subjects.failed(tenant, chosen.destination or "*", "*")


def matches(delivery: RetainedDelivery, chosen: ReplayFilter) -> bool:
    """Return True if `delivery` fulfils every condition of `chosen`."""
    return (
        (chosen.destination is None or delivery.destination == chosen.destination)
        and (chosen.since is None or delivery.stored_at >= chosen.since)
        and (chosen.until is None or delivery.stored_at < chosen.until)
        and (not chosen.codes or delivery.code in chosen.codes)
        and (not chosen.event_types or delivery.event_type in chosen.event_types)
        and (not chosen.ids or delivery.id in chosen.ids)
        and (not chosen.outcomes or delivery.outcome in chosen.outcomes)
    )


async def scan(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, after: int = 0, until: int | None = None
) -> AsyncIterator[RetainedRecord]:
    """Return what `chosen` matches after stream sequence `after`, up to and including `until`, oldest first."""
    messages = direct_get.scan(
        connection,
        stream_for(chosen).name,
        subject_for(tenant, chosen),
        first_sequence=after + 1,
        since=None if after else chosen.since,
        batch=ARCHIVE_BATCH if chosen.takes_delivered else BATCH,
    )
    async for message in messages:
        if until is not None and message.sequence > until:
            return
        for record in _matching_records(tenant, chosen, message):
            yield record


def _matching_records(tenant: str, chosen: ReplayFilter, message: direct_get.StoredMessage) -> Iterable[RetainedRecord]:
    parts = archive.read_archive_batch(message) if chosen.takes_delivered else (message,)
    match = _matcher(tenant, chosen)
    records = [record for part in parts if (record := match(part)) is not None]
    for record in records[:-1]:
        yield RetainedRecord(msgspec.structs.replace(record.delivery, is_last_in_batch=False), record.message)
    yield from records[-1:]


async def read_newest(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> list[RetainedRecord]:
    """Return the newest failed or skipped deliveries that `chosen` matches, newest first.

    At most `limit`, and only those before stream sequence `before`. Raises `JetStreamError`.
    """
    subject, match = subject_for(tenant, chosen), _matcher(tenant, chosen)
    return await read_last(
        connection, streams.FAILED.name, subject, match, limit=limit, before=before, since=chosen.since
    )


async def read_page(
    connection: NatsConnection, tenant: str, chosen: ReplayFilter, *, limit: int, before: int | None = None
) -> PageResult[RetainedRecord]:
    """Return a page of what `read_newest` returns, after bounded work. `PageResult.cursor` continues the search."""
    return await read_page_backwards(
        connection,
        streams.FAILED.name,
        subject_for(tenant, chosen),
        _matcher(tenant, chosen),
        limit=limit,
        before=before,
        since=chosen.since,
        until=chosen.until,
    )


def _matcher(tenant: str, chosen: ReplayFilter) -> Take[RetainedRecord]:
    def match(message: direct_get.StoredMessage) -> RetainedRecord | None:
        delivery = RetainedDelivery.from_message(tenant, message)
        return RetainedRecord(delivery, message) if delivery is not None and matches(delivery, chosen) else None

    return match
