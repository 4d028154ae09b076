"""Attempts on record: by destination, outcome, code and time, newest first, a page at a time."""

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
    """Which attempts to show. Every given condition must hold; the times are those at which they were stored."""

    tenant: str | None = None
    destination: str | None = None
    delivery: str | None = None
    outcomes: frozenset[Outcome] = frozenset()
    codes: frozenset[Code] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def subject(self) -> str:
        """The subjects that can hold them."""
        return subjects.attempted(self.tenant or "*", self.destination or "*", self.delivery or "*")

    def matches(self, event: DeliveryAttempted) -> bool:
        """Whether `event`, which came from one of those subjects in that time, is one of them."""
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
    sought: AttemptFilter,
    *,
    limit: int = PAGE_SIZE,
    before: int | None = None,
    examine: int = reverse_reader.EXAMINED,
) -> PageResult[RecordedAttempt]:
    """The newest that fit, of those before stream sequence `before`; see `PageResult` for how to go on.

    However many are on record and however few fit, about `examine` of them are read. Raises `JetStreamError`.
    """
    return await reverse_reader.read_page_backwards(
        connection,
        streams.ATTEMPTS.name,
        sought.subject,
        _taking(sought),
        limit=limit,
        before=before,
        since=sought.since,
        until=sought.until,
        examine=examine,
    )


async def read_newest(connection: NatsConnection, sought: AttemptFilter, *, limit: int) -> list[RecordedAttempt]:
    """The newest `limit` that fit, however long it takes, newest first. Raises `JetStreamError`."""
    return await reverse_reader.read_last(
        connection,
        streams.ATTEMPTS.name,
        sought.subject,
        _taking(sought),
        limit=limit,
        since=sought.since,
        until=sought.until,
    )


def _taking(sought: AttemptFilter) -> reverse_reader.Take[RecordedAttempt]:
    takes = sought.matches
    # A code or an id stands in the document as it is, so most of what does not fit need not be decoded.
    marks = [f'"{code.value}"'.encode() for code in sought.codes] or (
        [f'"{sought.delivery}"'.encode()] if sought.delivery else []
    )

    def take(record: direct_get.StoredMessage) -> RecordedAttempt | None:
        if marks and not any(mark in record.data for mark in marks):
            return None
        try:
            event = decode_result(record.data)
        except msgspec.DecodeError:  # recorded by another version of this program
            return None
        return RecordedAttempt(event, record.sequence) if takes(event) else None

    return take
