"""The publications that follow from a result: the result itself, and then a schedule, a failed or an archived delivery.

They follow from the result alone, so a redelivered message whose result is recorded is settled by the same rules.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from consumers.attempts.log import DeliveryHistory
from consumers.model.request import INITIAL_RETRY_STATE, DeliveryAttemptRequest, RetryState
from consumers.retention.archive import ArchivePublication, archive_batch
from messaging.client.headers import block_of
from messaging.kv import EXPECTED_REVISION
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE, AttemptResult, DeliveryAttempted, decode_result, encode
from schemas.headers import (
    HEADER_CODE,
    HEADER_DUE,
    HEADER_MSG_ID,
    HEADER_OUTCOME,
    HEADER_SCHEDULE,
    HEADER_SCHEDULE_TARGET,
    HEADER_SINCE,
    HEADER_TRACE,
)

SOURCE: Final = "/oneprotect/consumer"
_ATTEMPTED: Final = subjects.attempted("*", "*", "*").partition("*")[0]
_FAILED: Final = subjects.failed("*", "*", "*").partition("*")[0]
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


def for_recorded(
    delivery: DeliveryAttemptRequest,
    result: AttemptResult,
    history: DeliveryHistory,
    *,
    archived: bool,
) -> tuple[Publication, ...]:
    """Return what follows from a recorded result and is not stored yet, as `history` has it.

    A successful delivery is always archived: a consumer keeps it before it acknowledges the request.
    """
    if result.outcome is not Outcome.DELIVERED and (history.is_superseded or history.is_kept):
        return ()
    left = _follow_up(delivery, result, archived=archived)
    return tuple(replacing(one, delivery, history) for one in left)


def replacing(publication: Publication, delivery: DeliveryAttemptRequest, history: DeliveryHistory) -> Publication:
    """Return a schedule as one that replaces the older one that was seen, if any; anything else unchanged.

    What the schedule starts looks for results before it sends, as the delivery may be on its way elsewhere.
    """
    if HEADER_SCHEDULE not in publication.headers:
        return publication
    own = {EXPECTED_REVISION: str(history.schedule_sequence), HEADER_SINCE: delivery.recorded_since.isoformat()}
    return msgspec.structs.replace(publication, headers=publication.headers | own)


def without_id(publication: Publication) -> Publication:
    """Return a schedule or a failed delivery without its `Nats-Msg-Id`, which the server knows without its message.

    Its tenant may have been removed and created again, for example. What is stored was looked up before.
    """
    if HEADER_SCHEDULE not in publication.headers and not publication.subject.startswith(_FAILED):
        return publication
    headers = {name: value for name, value in publication.headers.items() if name != HEADER_MSG_ID}
    return msgspec.structs.replace(publication, headers=headers)


def suppressed(delivery: DeliveryAttemptRequest, recorded: AttemptResult, at: datetime) -> Publication:
    """Return the record of a request that was settled by the result on record: nothing was sent this time."""
    result = msgspec.structs.replace(recorded, outcome=Outcome.SUPPRESSED)
    return record(delivery, result, at, suffix=f".s{delivery.message.deliveries}")


def result_in(publications: Sequence[Publication]) -> AttemptResult | None:
    """Return the result that `after_attempt` put into its publications, or None if they are of no attempt."""
    is_result = publications and publications[0].subject.startswith(_ATTEMPTED)
    return decode_result(publications[0].payload).data if is_result else None


def deferral(delivery: DeliveryAttemptRequest, until: datetime) -> Publication:
    """Return the schedule for a request whose circuit breaker is open: without an attempt, there is no result."""
    return _schedule(delivery, delivery.retry_state.after_deferral(), until)


def record(delivery: DeliveryAttemptRequest, result: AttemptResult, at: datetime, *, suffix: str = "") -> Publication:
    """Return the publication of a result. `suffix` distinguishes it from another result of the same attempt."""
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
    message, received = delivery.message, delivery.message.headers
    headers = state.forward_headers(received) | {
        HEADER_MSG_ID: state.msg_id(delivery.request_id),
        HEADER_SCHEDULE: f"@at {at.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
        HEADER_SCHEDULE_TARGET: subjects.due(delivery.tenant, delivery.destination),
        HEADER_DUE: f"{at.timestamp():.3f}",
        EXPECTED_REVISION: "0",  # a fired schedule leaves its subject empty, so this replaces none that is newer
    }
    if message.deliveries > 1 or HEADER_SINCE in received:  # another consumer may still record `delivered`
        headers[HEADER_SINCE] = message.stored_at.isoformat()  # what is older was looked for before this attempt
    subject = subjects.scheduled(delivery.tenant, delivery.destination, delivery.id)
    return Publication(subject, message.data, headers)


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
