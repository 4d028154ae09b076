"""Effects of an attempt: complete, in order, and the same when it is settled again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.attempts.log import DeliveryHistory
from consumers.delivery import effects
from consumers.model.request import DeliveryAttemptRequest, RetryState
from consumers.retention.archive import ArchivedDelivery
from messaging.client.headers import block_of, read_headers
from messaging.direct_get import StoredMessage
from messaging.kv import EXPECTED_REVISION
from messaging.message import Message
from messaging.publication import Publication
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, decode_result
from schemas.headers import HEADER_MSG_ID, HEADER_SINCE
from tests.support.site import TENANT, document

pytestmark = pytest.mark.retry

NOW = datetime(2026, 11, 23, 20, tzinfo=UTC)
FOLLOWS = {
    Outcome.DELIVERED: "delivered",
    Outcome.RETRY_SCHEDULED: "scheduled",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "failed",
}
"""By outcome, the stream that gets what comes after the result."""


def taken(headers: dict[str, str], deliveries: int) -> Message:
    """A request from the work stream."""
    subject, reply = subjects.requested(TENANT, "orders"), f"$JS.ACK.{streams.WORK.name}.delivery.{deliveries}.1.1.0.0"
    nobody: Any = None
    document_ = document("orders", delivery="dlv_1")
    return Message(subject, subjects.lane_of(subject), reply.encode(), document_, block_of(headers), nobody)


def headers_of(publication: Publication) -> dict[str, str]:
    """Its headers, however they are given."""
    return publication.headers or read_headers(publication.block)


@st.composite
def progresses(draw: st.DrawFn) -> RetryState:
    """Generate states of a delivery."""
    attempt, is_replayed = draw(st.integers(1, 40)), draw(st.booleans())
    return RetryState(
        attempt=attempt,
        first_attempt_at=NOW if draw(st.booleans()) else None,
        replay="rpl-1" if is_replayed else None,
        replay_from=attempt if is_replayed else 1,
        secret_waits=draw(st.integers(0, 3)),
        deferrals=draw(st.integers(0, 3)),
        trace="00-" + "1" * 32 + "-" + "2" * 16 + "-01" if draw(st.booleans()) else None,
    )


@st.composite
def attempts(draw: st.DrawFn) -> tuple[DeliveryAttemptRequest, AttemptResult]:
    """A delivery that is on its way, and how its attempt ended."""
    progress = draw(progresses())
    headers = progress.forward_headers({"content-type": "application/cloudevents+json"}) | {"x-mine": "lost"}
    delivery = DeliveryAttemptRequest.from_message(taken(headers, draw(st.integers(1, 5))), max_payload_bytes=1000)
    ended = draw(st.sampled_from(list(FOLLOWS)))
    waits = timedelta(seconds=draw(st.integers(1, 86_400)))
    result = AttemptResult(
        delivery=delivery.id,
        destination=delivery.destination,
        event_type=delivery.event_type,
        attempt=delivery.retry_state.attempt,
        outcome=ended,
        code=Code.HTTP_2XX
        if ended is Outcome.DELIVERED
        else draw(st.sampled_from(sorted(set(Code) - {Code.HTTP_2XX}))),
        started_at=NOW,
        duration_ms=1.5,
        worker="w",
        next_attempt_at=NOW + waits if ended is Outcome.RETRY_SCHEDULED else None,
        replay=delivery.retry_state.replay,
    )
    return delivery, result


def _kinds(publications: tuple[Publication, ...]) -> list[str]:
    return [publication.subject.split(".")[2] for publication in publications]


@given(attempt=attempts(), archived=st.booleans())
def test_the_result_comes_first_and_then_its_consequences(
    attempt: tuple[DeliveryAttemptRequest, AttemptResult], archived: bool
) -> None:
    """Each outcome stores its result and then exactly its schedule, kept delivery or copy."""
    delivery, result = attempt

    stored = effects.after_attempt(delivery, result, at=NOW, archived=archived)

    follows = [] if result.outcome is Outcome.DELIVERED and not archived else [FOLLOWS[result.outcome]]
    assert _kinds(stored) == ["attempted", *follows]
    assert decode_result(stored[0].payload).data == result
    assert all(one.payload == delivery.message.data for one in stored[1:]), "the body is never rewritten"
    assert not any("x-mine" in headers_of(one) for one in stored)


@given(attempt=attempts(), archived=st.booleans(), sequence=st.integers(0, 9))
def test_an_attempt_settled_again_stores_what_is_missing(
    attempt: tuple[DeliveryAttemptRequest, AttemptResult], archived: bool, sequence: int
) -> None:
    """A redelivery settled from the record has the same effects; its schedule replaces only the one that was seen."""
    delivery, result = attempt
    seen = StoredMessage("subject", sequence, NOW, b"", {}) if sequence else None

    _, *first = effects.after_attempt(delivery, result, at=NOW, archived=archived)
    left = effects.for_recorded(delivery, result, DeliveryHistory([], seen), archived=archived)

    assert [(one.subject, one.payload) for one in left] == [(one.subject, one.payload) for one in first]
    for one in left:
        if one.subject.split(".")[2] == "scheduled":
            assert headers_of(one)[EXPECTED_REVISION] == str(sequence)
            assert HEADER_MSG_ID not in headers_of(effects.without_id(one))
            assert HEADER_SINCE in headers_of(one)
    newer = DeliveryHistory([], seen, is_superseded=True)
    after = effects.for_recorded(delivery, result, newer, archived=archived)
    assert after == (left if result.outcome is Outcome.DELIVERED else ())


@given(attempt=attempts())
def test_a_suppressed_attempt_is_recorded_beside_its_result(
    attempt: tuple[DeliveryAttemptRequest, AttemptResult],
) -> None:
    """The record has the same result, another outcome and another id."""
    delivery, result = attempt

    first, *_ = effects.after_attempt(delivery, result, at=NOW, archived=False)
    again = effects.suppressed(delivery, result, NOW)

    assert decode_result(again.payload).data == msgspec.structs.replace(result, outcome=Outcome.SUPPRESSED)
    assert headers_of(again)[HEADER_MSG_ID] != headers_of(first)[HEADER_MSG_ID]


@given(attempt=attempts())
def test_the_next_attempt_continues_the_numbers(attempt: tuple[DeliveryAttemptRequest, AttemptResult]) -> None:
    """The next attempt has the next number, or the same after a wait for its secret."""
    delivery, result = attempt

    _, follows = effects.after_attempt(delivery, result, at=NOW, archived=True)

    after = RetryState.from_headers(headers_of(follows))
    if result.outcome is not Outcome.RETRY_SCHEDULED:
        assert after.attempt == result.attempt
    elif result.code.startswith("secret."):
        assert (after.attempt, after.secret_waits) == (result.attempt, delivery.retry_state.secret_waits + 1)
    else:
        assert (after.attempt, after.secret_waits) == (result.attempt + 1, 0)
    assert (after.replay, after.replay_from) == (delivery.retry_state.replay, delivery.retry_state.replay_from)
    if result.outcome is not Outcome.DELIVERED:
        assert after.first_attempt_at == (delivery.retry_state.first_attempt_at or result.started_at)


@given(attempt=attempts())
def test_ids_are_unique_per_attempt(attempt: tuple[DeliveryAttemptRequest, AttemptResult]) -> None:
    """No message of one attempt is dropped as a duplicate of another."""
    delivery, _ = attempt
    progress = delivery.retry_state
    others = [progress.after_attempt(), progress.after_secret_wait(), progress.after_deferral()]

    ids = [one.msg_id(delivery.request_id) for one in (progress, *others)]

    assert len(set(ids)) == 4


@given(
    st.lists(st.tuples(st.binary(max_size=30), st.dictionaries(st.text(max_size=5), st.text(max_size=5))), max_size=5)
)
def test_a_batch_preserves_its_content(copies: list[tuple[bytes, dict[str, str]]]) -> None:
    """Documents and headers of a batch are read back unchanged and in order."""
    packed = msgspec.msgpack.encode([ArchivedDelivery(document_, headers) for document_, headers in copies])

    found = msgspec.msgpack.decode(packed, type=list[ArchivedDelivery])

    assert [(one.document, one.headers) for one in found] == copies
