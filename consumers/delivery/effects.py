"""What an attempt leaves behind: its result, and then the next attempt's schedule or the kept delivery.

All of it follows from the result, so a redelivered message whose result is on record is settled by the same rules.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from consumers.model.request import DeliveryAttemptRequest, RetryState
from consumers.retention import archive
from messaging.publisher import Publication
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE, AttemptResult, DeliveryAttempted, encode

SOURCE = "/oneprotect/consumer"
_BEFORE_MSG_ID: Final = f"NATS/1.0\r\n{subjects.HEADER_MSG_ID}: "
_AFTER_MSG_ID: Final = f"\r\ncontent-type: {CONTENT_TYPE}\r\n\r\n"


def after_attempt(
    delivery: DeliveryAttemptRequest, result: AttemptResult, *, at: datetime, archived: bool
) -> tuple[Publication, ...]:
    """What must be stored, in this order, before the request of `delivery` may be acknowledged.

    `at`: when that was settled. `archived`: whether those that were delivered are kept, too.
    """
    if result.outcome is Outcome.RETRY_SCHEDULED and delivery.is_ping:
        result = msgspec.structs.replace(result, outcome=Outcome.FAILED, next_attempt_at=None)
    return (_recorded(delivery, result, at), *_followed(delivery, result, archived=archived))


def result_only(delivery: DeliveryAttemptRequest, result: AttemptResult, *, at: datetime) -> tuple[Publication, ...]:
    """The result alone: for a delivery whose next attempt is made where it stands."""
    return (_recorded(delivery, result, at),)


def for_duplicate(
    delivery: DeliveryAttemptRequest, known: AttemptResult, *, at: datetime, archived: bool
) -> tuple[Publication, ...]:
    """The same for a request that was handed out again although its result is on record: nothing was sent this time."""
    again = msgspec.structs.replace(known, outcome=Outcome.SUPPRESSED)
    return (
        _recorded(delivery, again, at, distinct=f".s{delivery.message.deliveries}"),
        *_followed(delivery, known, archived=archived),
    )


def deferral(delivery: DeliveryAttemptRequest, until: datetime) -> tuple[Publication, ...]:
    """The same for a request whose destination is given a rest: no attempt was made, so there is no result."""
    return (_schedule(delivery, delivery.progress.after_deferral(), until),)


def _recorded(
    delivery: DeliveryAttemptRequest, result: AttemptResult, at: datetime, *, distinct: str = ""
) -> Publication:
    event = DeliveryAttempted(
        specversion="1.0",
        id=f"{delivery.id}.{result.attempt}{distinct}",
        source=SOURCE,
        time=at,
        tenant=delivery.tenant,
        data=result,
    )
    progress, subject = delivery.progress, subjects.attempted(delivery.tenant, delivery.destination, delivery.id)
    msg_id = progress.msg_id(delivery.request_id) + distinct
    if progress.trace is None:  # then nothing in them is anybody's own words: they need no looking through
        return Publication(subject, encode(event), {}, f"{_BEFORE_MSG_ID}{msg_id}{_AFTER_MSG_ID}".encode())
    headers = {
        subjects.HEADER_MSG_ID: msg_id,
        "content-type": CONTENT_TYPE,
        subjects.HEADER_TRACE: progress.trace,
    }
    return Publication(subject, encode(event), headers)


def _followed(delivery: DeliveryAttemptRequest, result: AttemptResult, *, archived: bool) -> tuple[Publication, ...]:
    if delivery.is_ping:
        return ()
    match result.outcome:
        case Outcome.DELIVERED:
            return (archive.archive_publication(delivery, result.attempt),) if archived else ()
        case Outcome.RETRY_SCHEDULED:
            return (_scheduled(delivery, result),)
        case Outcome.FAILED | Outcome.SKIPPED:
            return (_kept(delivery, result),)
        case Outcome.SUPPRESSED:
            return ()


def _scheduled(delivery: DeliveryAttemptRequest, result: AttemptResult) -> Publication:
    if result.next_attempt_at is None:
        raise ValueError("a scheduled retry has no time")
    return _schedule(delivery, delivery.progress.after_result(result), result.next_attempt_at)


def _schedule(delivery: DeliveryAttemptRequest, progress: RetryState, at: datetime) -> Publication:
    headers = progress.forward_headers(delivery.message.headers) | {
        subjects.HEADER_MSG_ID: progress.msg_id(delivery.request_id),
        subjects.HEADER_SCHEDULE: f"@at {at.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
        subjects.HEADER_SCHEDULE_TARGET: subjects.due(delivery.tenant, delivery.destination),
    }
    subject = subjects.scheduled(delivery.tenant, delivery.destination, delivery.id)
    return Publication(subject, delivery.message.data, headers)


def _kept(delivery: DeliveryAttemptRequest, result: AttemptResult) -> Publication:
    headers = _begun(delivery, result).forward_headers(delivery.message.headers) | {
        subjects.HEADER_MSG_ID: delivery.progress.msg_id(delivery.request_id),
        subjects.HEADER_OUTCOME: result.outcome.value,
        subjects.HEADER_CODE: result.code.value,
    }
    subject = subjects.failed(delivery.tenant, delivery.destination, delivery.id)
    return Publication(subject, delivery.message.data, headers)


def _begun(delivery: DeliveryAttemptRequest, result: AttemptResult) -> RetryState:
    """Where the delivery stands, with the time of its first attempt filled in."""
    first_at = delivery.progress.first_attempt_at or result.started_at
    return msgspec.structs.replace(delivery.progress, first_attempt_at=first_at)
