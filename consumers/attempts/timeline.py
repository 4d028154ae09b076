"""The timeline of a delivery: its state and its attempts.

No index of deliveries exists. A delivery is in the overflow, the work stream, an ordered queue or the retries, or else
its last attempt is the result. The time in its id, and the id's bucket, narrow the search. A request is stored in the
next place before it leaves the one before, so a search in that order finds it.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from consumers.model.request import RetryState
from messaging import direct_get, reverse_reader
from messaging.client.connection import NatsConnection
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryRequested, decode_request, decode_result
from schemas.headers import schedule_time
from schemas.ids import time_of

MAX_SKIPS: Final = 16
"""Times that the search for attempts skips to the time at which the next one was due."""
_SKEW: Final = timedelta(minutes=1)
"""Producers make the ids, and their clocks differ from the server's."""
CLOCK_DIFFERENCE: Final = timedelta(seconds=5)
"""The clocks of two servers may differ by this much."""
_ENDED: Final = frozenset({Outcome.DELIVERED, Outcome.FAILED, Outcome.SKIPPED})


class DeliveryState(StrEnum):
    """State of a delivery."""

    PENDING = "pending"
    """Due, or in progress."""
    OVERFLOW = "overflow"
    """Behind other deliveries of its destination, whose limit of due work is reached."""
    SCHEDULED = "scheduled"
    """Waiting for the time of its next attempt."""
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

    `is_complete` is False when the search ended before the end of the log, as it may for an old delivery of a busy
    tenant. Naming the destination narrows the search.
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
    """A request that is in a stream."""

    state: DeliveryState
    destination: str
    event_type: str
    attempt: int
    at: datetime | None = None


async def read_timelines(
    connection: NatsConnection, tenant: str, delivery: str, destination: str | None = None
) -> list[DeliveryTimeline]:
    """Return the timeline of a delivery for each of its destinations, or for one; none if the delivery is unknown.

    Raises `JetStreamError`.
    """
    name = destination or "*"
    made_at = time_of(delivery)
    since = made_at and made_at - _SKEW
    waiting: dict[str, _WaitingRequest] = {}
    for state, stream, pattern in _places(tenant, name, delivery):
        forward = _ForwardScan(connection, stream.name, pattern, delivery)
        await forward.read(None if stream is streams.RETRIES else since)
        waiting |= {found.destination: found for found in _requests(forward, delivery, state)}
    pattern = subjects.attempted(tenant, name, delivery)
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


IsIt = Callable[[DeliveryRequested, Mapping[str, str]], bool]
"""Returns whether a request, with its headers, is the one that is searched: others may have its id."""


async def is_stored(
    connection: NatsConnection, tenant: str, delivery: str, destination: str, *, since: datetime, is_it: IsIt
) -> bool:
    """Return whether a delivery that was requested at `since` or later waits in a stream, or has a result.

    Most were attempted, and that is found at once: so it is looked for first, and again when nothing waits. Load
    shedding moves a due delivery back to the overflow, which is therefore read twice. Raises `JetStreamError`.
    """
    if await has_attempt(connection, tenant, delivery, destination, since=since, is_it=is_it):
        return True
    overflow, work, ordered, *_ = _places(tenant, destination, delivery)
    for place in (overflow, work, ordered, overflow):
        if await _is_in(connection, place, delivery, since - CLOCK_DIFFERENCE, is_it):
            return True
    return await has_attempt(connection, tenant, delivery, destination, since=since, is_it=is_it)


async def has_attempt(
    connection: NatsConnection, tenant: str, delivery: str, destination: str, *, since: datetime, is_it: IsIt
) -> bool:
    """Return whether a delivery that was requested at `since` or later waits for an attempt, or has a result.

    Places and results are read in the order in which the delivery moves. Raises `JetStreamError`.
    """
    *_, scheduled, due = _places(tenant, destination, delivery)
    for place in (scheduled, due):
        if await _is_in(connection, place, delivery, None, is_it):
            return True
    pattern = subjects.attempted(tenant, destination, delivery)
    forward = _ForwardScan(connection, streams.ATTEMPTS.name, pattern, delivery)
    async for record in forward.read_each(since - CLOCK_DIFFERENCE):
        if any(True for _ in _results([record], delivery)):
            return True
    return False


async def _is_in(
    connection: NatsConnection, place: "_Place", delivery: str, since: datetime | None, is_it: IsIt
) -> bool:
    _, stream, pattern = place
    forward = _ForwardScan(connection, stream.name, pattern, delivery)
    async for record in forward.read_each(since):
        with contextlib.suppress(ValueError):  # it is quarantined when it is handled
            request = decode_request(record.data)
            if request.id == delivery and is_it(request, record.headers):
                return True
    return False


_Place = tuple[DeliveryState, streams.StreamConfig, str]
"""Stream and subject where a delivery may wait, and its state there."""


def _places(
    tenant: str, destination: str, delivery: str
) -> tuple[tuple[DeliveryState, streams.StreamConfig, str], ...]:
    """Return the places in the order in which a delivery moves."""
    return (
        (DeliveryState.OVERFLOW, streams.OVERFLOW, subjects.overflow(tenant, destination)),
        (DeliveryState.PENDING, streams.WORK, subjects.requested(tenant, destination)),
        (DeliveryState.PENDING, streams.ORDERED, subjects.ordered(tenant, destination)),
        (DeliveryState.SCHEDULED, streams.RETRIES, subjects.scheduled(tenant, destination, delivery)),
        (DeliveryState.PENDING, streams.RETRIES, subjects.due(tenant, destination)),
    )


class _ForwardScan:
    """A scan from a time onwards that keeps the messages about one delivery."""

    def __init__(self, connection: NatsConnection, stream: str, subject: str, delivery: str) -> None:
        self.has_ended = False
        """True after a scan that reached the end of the stream."""
        self.reached_at: datetime | None = None
        self._scanned = (connection, stream, subject)
        self._mark = f'"{delivery}"'.encode()
        self._kept: dict[int, direct_get.StoredMessage] = {}

    @property
    def records(self) -> Iterable[direct_get.StoredMessage]:
        """Messages about the delivery, oldest first."""
        return self._kept.values()

    async def read(self, since: datetime | None) -> None:
        """Read about `reverse_reader.EXAMINED` messages, fewer large ones, that were stored at `since` or later."""
        async for record in self.read_each(since):
            self._kept[record.sequence] = record

    async def read_each(self, since: datetime | None) -> AsyncGenerator[direct_get.StoredMessage]:
        """Yield the messages about the delivery, of those that `read` reads, and keep none."""
        left = reverse_reader.EXAMINED
        left_bytes = left * reverse_reader.EXAMINED_BYTES
        async for record in direct_get.scan(*self._scanned, since=since):
            self.reached_at = record.stored_at
            if self._mark in record.data:
                yield record
            left -= 1
            left_bytes -= len(record.data)
            if left <= 0 or left_bytes <= 0:
                return
        self.has_ended = True


def _requests(forward: _ForwardScan, delivery: str, state: DeliveryState) -> Iterable[_WaitingRequest]:
    for record in forward.records:
        try:
            request, progress = decode_request(record.data), RetryState.from_headers(record.headers)
        except ValueError:
            continue
        if request.id == delivery:
            at = schedule_time(record.headers) if state is DeliveryState.SCHEDULED else None
            yield _WaitingRequest(state, request.data.destination, request.data.event_type, progress.attempt, at)


async def _attempts(forward: _ForwardScan, delivery: str, since: datetime | None) -> list[AttemptResult]:
    """Return the attempts, oldest first: those soon after the request, and those around each next due time."""
    await forward.read(since)
    results = list(_results(forward.records, delivery))
    for _ in range(MAX_SKIPS):
        due_at = max((result.next_attempt_at for result in results if result.next_attempt_at), default=None)
        if forward.has_ended or due_at is None or forward.reached_at is None or due_at <= forward.reached_at:
            break
        await forward.read(max(due_at - _SKEW, forward.reached_at))
        results = list(_results(forward.records, delivery))
    return results


def _results(records: Iterable[direct_get.StoredMessage], delivery: str) -> Iterable[AttemptResult]:
    for record in records:
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
        waiting = None  # its result is stored, and the request is about to be removed
    if waiting is not None and last is not None and _is_held_head(waiting, last):
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


def _is_held_head(waiting: _WaitingRequest, last: AttemptResult) -> bool:
    """Return True for the head of an ordered queue, which stays in its stream between its attempts."""
    return (
        waiting.state is DeliveryState.PENDING
        and last.attempt >= waiting.attempt
        and last.next_attempt_at is not None
        and last.next_attempt_at > datetime.now(UTC)
    )
