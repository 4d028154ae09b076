"""Recorded attempts by destination, outcome, code and time, newest first, a page at a time."""

from datetime import datetime
from typing import Final

import msgspec

from messaging import direct_get, reverse_reader
from messaging.client.connection import NatsConnection
from messaging.reverse_reader import PageResult
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import DeliveryAttempted, decode_result

PAGE_SIZE: Final = 50


class AttemptFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts to show: every given condition must hold. The times are those of storage."""

    tenant: str | None = None
    destination: str | None = None
    delivery: str | None = None
    outcomes: frozenset[Outcome] = frozenset()
    codes: frozenset[Code] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def subject(self) -> str:
        """The narrowest subject pattern that covers all of them."""
        return subjects.attempted(self.tenant or "*", self.destination or "*", self.delivery or "*")

    def matches(self, event: DeliveryAttempted) -> bool:
        """Return True if `event`, stored on one of those subjects in that time, fulfils the other conditions."""
        result = event.data
        return (
            (self.delivery is None or result.delivery == self.delivery)
            and (not self.outcomes or result.outcome in self.outcomes)
            and (not self.codes or result.code in self.codes)
        )


class RecordedAttempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt's result, and its place in the stream."""

    event: DeliveryAttempted
    sequence: int


async def read_page(
    connection: NatsConnection,
    chosen: AttemptFilter,
    *,
    limit: int = PAGE_SIZE,
    before: int | None = None,
    examine: int = reverse_reader.EXAMINED,
) -> PageResult[RecordedAttempt]:
    """Return the newest matches before stream sequence `before`; `PageResult.cursor` continues the search.

    Reads about `examine` attempts, however many are recorded and however few match. Raises `JetStreamError`.
    """
    return await reverse_reader.read_page_backwards(
        connection,
        streams.ATTEMPTS.name,
        chosen.subject,
        _matcher(chosen),
        limit=limit,
        before=before,
        since=chosen.since,
        until=chosen.until,
        examine=examine,
    )


async def read_newest(connection: NatsConnection, chosen: AttemptFilter, *, limit: int) -> list[RecordedAttempt]:
    """Return the newest `limit` matches, newest first, however long the search takes. Raises `JetStreamError`."""
    return await reverse_reader.read_last(
        connection,
        streams.ATTEMPTS.name,
        chosen.subject,
        _matcher(chosen),
        limit=limit,
        since=chosen.since,
        until=chosen.until,
    )


def _matcher(chosen: AttemptFilter) -> reverse_reader.Take[RecordedAttempt]:
    # Codes and ids are literals in the document, so most attempts that do not match need not be decoded.
    marks = [f'"{code.value}"'.encode() for code in chosen.codes] or (
        [f'"{chosen.delivery}"'.encode()] if chosen.delivery else []
    )

    def match(record: direct_get.StoredMessage) -> RecordedAttempt | None:
        if marks and not any(mark in record.data for mark in marks):
            return None
        try:
            event = decode_result(record.data)
        except msgspec.DecodeError:  # recorded by another version of this program
            return None
        return RecordedAttempt(event, record.sequence) if chosen.matches(event) else None

    return match
