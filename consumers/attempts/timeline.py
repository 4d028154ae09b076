"""One delivery: where it stands, and how each of its attempts went.

Nothing keeps a register of deliveries. A delivery is in the overflow, in the work stream, in a line or among the
retries, or else its last attempt says how it ended; the time in its id, and the bucket that the id belongs to, say
where to look. A request is stored in the next place before it leaves the one before, so looking in that order finds it.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from consumers.model.request import RetryState
from messaging import direct_get, reverse_reader
from messaging.client.connection import NatsConnection
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, decode_request, decode_result
from schemas.headers import HEADER_SCHEDULE
from schemas.ids import time_of

MAX_SKIPS: Final = 16
"""How often the look for attempts skips to where the next one was due."""
_SKEW: Final = timedelta(minutes=1)
"""Ids are made by producers, whose clocks differ from the server's."""
_BATCH: Final = 512
_ENDED: Final = frozenset({Outcome.DELIVERED, Outcome.FAILED, Outcome.SKIPPED})


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    """Due, or being attempted."""
    OVERFLOW = "overflow"
    """Behind others of its destination, which has its fill of due work."""
    SCHEDULED = "scheduled"
    """Its next attempt waits for its time."""
    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"


_STATES: Final = {
    Outcome.DELIVERED: DeliveryState.DELIVERED,
    Outcome.FAILED: DeliveryState.FAILED,
    Outcome.SKIPPED: DeliveryState.SKIPPED,
    Outcome.RETRY_SCHEDULED: DeliveryState.SCHEDULED,
}


class DeliveryTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery to one destination. `attempts`: oldest first.

    `is_complete`: whether everything was looked at that could hold an attempt of it. For a delivery of long ago to a
    busy tenant it may not be; naming the destination narrows the look.
    """

    delivery: str
    tenant: str
    destination: str
    event_type: str
    state: DeliveryState
    attempts: list[AttemptResult]
    code: Code | None = None
    next_attempt_at: datetime | None = None
    is_complete: bool = True


class _WaitingRequest(msgspec.Struct, frozen=True):
    """A request that stands somewhere."""

    state: DeliveryState
    destination: str
    event_type: str
    attempt: int
    at: datetime | None = None


async def read_timelines(
    connection: NatsConnection, tenant: str, delivery: str, destination: str | None = None
) -> list[DeliveryTimeline]:
    """The delivery, for each destination that it goes to (or for the one), by destination; none if it is unknown.

    Raises `JetStreamError`.
    """
    of = destination or "*"
    made_at = time_of(delivery)
    since = made_at and made_at - _SKEW
    waiting: dict[str, _WaitingRequest] = {}
    for state, stream, pattern in (
        (DeliveryState.OVERFLOW, streams.OVERFLOW, subjects.overflow(tenant, of)),
        (DeliveryState.PENDING, streams.WORK, subjects.requested(tenant, of)),
        (DeliveryState.PENDING, streams.ORDERED, subjects.ordered(tenant, of)),
        (DeliveryState.SCHEDULED, streams.RETRIES, subjects.scheduled(tenant, of, delivery)),
        (DeliveryState.PENDING, streams.RETRIES, subjects.due(tenant, of)),
    ):
        forward = _ForwardScan(connection, stream.name, pattern, delivery)
        await forward.look(None if stream is streams.RETRIES else since)
        waiting |= {found.destination: found for found in _requests(forward, delivery, state)}
    pattern = subjects.attempted(tenant, of, delivery)
    forward = _ForwardScan(connection, streams.ATTEMPTS.name, pattern, delivery)
    results = await _attempts(forward, delivery, since)
    found = sorted({result.destination for result in results} | waiting.keys())
    return [
        _build_timeline(
            tenant,
            delivery,
            waiting.get(name),
            [result for result in results if result.destination == name],
            name,
            is_complete=forward.has_ended,
        )
        for name in found
    ]


class _ForwardScan:
    """Reads on from a time, and keeps what has to do with one delivery."""

    def __init__(self, connection: NatsConnection, stream: str, subject: str, delivery: str) -> None:
        self.has_ended = False
        """Whether it has come to the end of the stream."""
        self.reached_at: datetime | None = None
        self._scanned = (connection, stream, subject)
        self._mark = f'"{delivery}"'.encode()
        self._kept: dict[int, direct_get.StoredMessage] = {}

    @property
    def records(self) -> Iterable[direct_get.StoredMessage]:
        """What it has kept, oldest first."""
        return self._kept.values()

    async def look(self, since: datetime | None) -> None:
        """Read about `newest.EXAMINED` messages that were stored at `since` or later."""
        left = reverse_reader.EXAMINED
        async for record in direct_get.scan(*self._scanned, since=since, batch=_BATCH):
            self.reached_at = record.stored_at
            if self._mark in record.data:
                self._kept[record.sequence] = record
            left -= 1
            if left <= 0:
                return
        self.has_ended = True


def _requests(forward: _ForwardScan, delivery: str, state: DeliveryState) -> Iterable[_WaitingRequest]:
    for record in forward.records:
        try:
            request, progress = decode_request(record.data), RetryState.from_headers(record.headers)
        except ValueError:
            continue
        if request.id == delivery:
            at = _scheduled_at(record.headers) if state is DeliveryState.SCHEDULED else None
            yield _WaitingRequest(state, request.data.destination, request.data.event_type, progress.attempt, at)


async def _attempts(forward: _ForwardScan, delivery: str, since: datetime | None) -> list[AttemptResult]:
    """Its attempts, oldest first: those soon after it was asked for, and those around when each next one was due."""
    await forward.look(since)
    results = list(_results(forward, delivery))
    for _ in range(MAX_SKIPS):
        due_at = max((result.next_attempt_at for result in results if result.next_attempt_at), default=None)
        if forward.has_ended or due_at is None or forward.reached_at is None or due_at <= forward.reached_at:
            break
        await forward.look(max(due_at - _SKEW, forward.reached_at))
        results = list(_results(forward, delivery))
    return results


def _results(forward: _ForwardScan, delivery: str) -> Iterable[AttemptResult]:
    for record in forward.records:
        try:
            result = decode_result(record.data).data
        except msgspec.DecodeError:  # recorded by another version of this program
            continue
        if result.delivery == delivery:
            yield result


def _build_timeline(
    tenant: str,
    delivery: str,
    waiting: _WaitingRequest | None,
    attempts: list[AttemptResult],
    destination: str,
    *,
    is_complete: bool,
) -> DeliveryTimeline:
    last = next((result for result in reversed(attempts) if result.outcome is not Outcome.SUPPRESSED), None)
    if waiting is not None and last is not None and last.outcome in _ENDED and last.attempt >= waiting.attempt:
        waiting = None  # its result is stored, and the request will be gone in a moment
    if waiting is not None and last is not None and _is_held(waiting, last):
        waiting = msgspec.structs.replace(waiting, state=DeliveryState.SCHEDULED, at=last.next_attempt_at)
    state = waiting.state if waiting else _STATES[last.outcome] if last else DeliveryState.PENDING
    return DeliveryTimeline(
        delivery=delivery,
        tenant=tenant,
        destination=destination,
        event_type=last.event_type if last else waiting.event_type if waiting else "",
        state=state,
        attempts=attempts,
        code=last.code if last else None,
        next_attempt_at=waiting.at if waiting else last.next_attempt_at if last else None,
        is_complete=is_complete,
    )


def _is_held(waiting: _WaitingRequest, last: AttemptResult) -> bool:
    """Whether it is the head of a line (`ordering: fifo`), which stays where it is between its attempts."""
    return (
        waiting.state is DeliveryState.PENDING
        and last.attempt >= waiting.attempt
        and last.next_attempt_at is not None
        and last.next_attempt_at > datetime.now(UTC)
    )


def _scheduled_at(headers: Mapping[str, str]) -> datetime | None:
    try:
        return datetime.fromisoformat(headers.get(HEADER_SCHEDULE, "").removeprefix("@at "))
    except ValueError:
        return None
