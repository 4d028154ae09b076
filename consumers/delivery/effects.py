"""The publications that follow from a result: the result itself, and then a schedule, a failed or an archived delivery.

They follow from the result alone, so a redelivered message whose result is recorded is settled by the same rules.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from consumers.model.request import INITIAL_RETRY_STATE, DeliveryAttemptRequest, RetryState
from consumers.retention.archive import ArchivePublication, archive_batch
from messaging.client.headers import block_of
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE, AttemptResult, DeliveryAttempted, encode
from schemas.headers import (
    HEADER_CODE,
    HEADER_MSG_ID,
    HEADER_OUTCOME,
    HEADER_SCHEDULE,
    HEADER_SCHEDULE_TARGET,
    HEADER_TRACE,
)

SOURCE: Final = "/oneprotect/consumer"
_BEFORE_MSG_ID: Final = f"NATS/1.0\r\n{HEADER_MSG_ID}: "
_AFTER_MSG_ID: Final = f"\r\ncontent-type: {CONTENT_TYPE}\r\n\r\n"


def after_attempt(
    delivery: DeliveryAttemptRequest, result: AttemptResult, *, at: datetime, archived: bool
) -> tuple[Publication, ...]:
    """Return what must be stored, in this order, before the request of `delivery` may be acknowledged.

    Args:
        delivery: The request.
        result: The result of its attempt.
        at: When the attempt ended.
        archived: Whether the archive stores delivered payloads.
    """
    if result.outcome is Outcome.RETRY_SCHEDULED and delivery.is_ping:
        result = msgspec.structs.replace(result, outcome=Outcome.FAILED, next_attempt_at=None)
    return (record(delivery, result, at), *_follow_up(delivery, result, archived=archived))


def for_duplicate(
    delivery: DeliveryAttemptRequest, recorded: AttemptResult, *, at: datetime, archived: bool
) -> tuple[Publication, ...]:
    """Return what to store for a redelivered request whose result is recorded: nothing was sent this time."""
    suppressed = msgspec.structs.replace(recorded, outcome=Outcome.SUPPRESSED)
    return (
        record(delivery, suppressed, at, suffix=f".s{delivery.message.deliveries}"),
        *_follow_up(delivery, recorded, archived=archived),
    )


def deferral(delivery: DeliveryAttemptRequest, until: datetime) -> tuple[Publication, ...]:
    """Return the schedule for a request whose circuit breaker is open: without an attempt, there is no result."""
    return (_schedule(delivery, delivery.retry_state.after_deferral(), until),)


def record(delivery: DeliveryAttemptRequest, result: AttemptResult, at: datetime, *, suffix: str = "") -> Publication:
    """Return the publication of a result. `suffix` distinguishes a redelivery's from that of the attempt itself."""
    event = DeliveryAttempted(
        specversion="1.0",
        id=f"{delivery.id}.{result.attempt}{suffix}",
        source=SOURCE,
        time=at,
        tenant=delivery.tenant,
        data=result,
    )
    tenant, destination, state = delivery.tenant, delivery.destination, delivery.retry_state
    subject = subjects.attempted(tenant, destination, delivery.id)
    msg_id = state.msg_id(subjects.msg_id(tenant, destination, delivery.id)) + suffix
    if state.trace is None:  # without a producer's text in them, the headers need no validation
        return Publication(subject, encode(event), {}, f"{_BEFORE_MSG_ID}{msg_id}{_AFTER_MSG_ID}".encode())
    headers = {HEADER_MSG_ID: msg_id, "content-type": CONTENT_TYPE, HEADER_TRACE: state.trace}
    return Publication(subject, encode(event), headers)


def _follow_up(delivery: DeliveryAttemptRequest, result: AttemptResult, *, archived: bool) -> tuple[Publication, ...]:
    if delivery.is_ping:
        return ()
    match result.outcome:
        case Outcome.DELIVERED:
            return (_archive(delivery, result.attempt),) if archived else ()
        case Outcome.RETRY_SCHEDULED:
            if result.next_attempt_at is None:
                raise ValueError("a scheduled retry has no time")
            return (_schedule(delivery, delivery.retry_state.after_result(result), result.next_attempt_at),)
        case Outcome.FAILED | Outcome.SKIPPED:
            return (_keep_failed(delivery, result),)
        case Outcome.SUPPRESSED:
            return ()


def _archive(delivery: DeliveryAttemptRequest, attempt: int) -> Publication:
    """Return the copy of a delivered request for the archive.

    A first attempt has no state, so none of its headers is kept. The head of an ordered queue has its state in the
    attempt log, and gets it into the headers here.
    """
    message, subject = delivery.message, subjects.delivered(delivery.tenant, delivery.destination)
    if delivery.retry_state is INITIAL_RETRY_STATE and attempt == 1:
        block = b""
    else:
        state = msgspec.structs.replace(delivery.retry_state, attempt=attempt)
        block = block_of(state.forward_headers(message.headers))
    if delivery.is_ordered:  # the queue's next delivery starts when this one is acknowledged
        return archive_batch(subject, message.data, block)
    return ArchivePublication(subject, message.data, {}, block)


def _schedule(delivery: DeliveryAttemptRequest, state: RetryState, at: datetime) -> Publication:
    headers = state.forward_headers(delivery.message.headers) | {
        HEADER_MSG_ID: state.msg_id(delivery.request_id),
        HEADER_SCHEDULE: f"@at {at.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
        HEADER_SCHEDULE_TARGET: subjects.due(delivery.tenant, delivery.destination),
    }
    subject = subjects.scheduled(delivery.tenant, delivery.destination, delivery.id)
    return Publication(subject, delivery.message.data, headers)


def _keep_failed(delivery: DeliveryAttemptRequest, result: AttemptResult) -> Publication:
    state = delivery.retry_state
    started = msgspec.structs.replace(state, first_attempt_at=state.first_attempt_at or result.started_at)
    headers = started.forward_headers(delivery.message.headers) | {
        HEADER_MSG_ID: state.msg_id(delivery.request_id),
        HEADER_OUTCOME: result.outcome.value,
        HEADER_CODE: result.code.value,
    }
    subject = subjects.failed(delivery.tenant, delivery.destination, delivery.id)
    return Publication(subject, delivery.message.data, headers)
