"""The retry state of a delivery in its headers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.model.request import RetryState
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_REPLAY,
    HEADER_REPLAY_FROM,
    HEADER_SECRET_WAITS,
)
from schemas.ids import is_name, new_replay_id

progresses = st.builds(
    RetryState,
    attempt=st.integers(5, 999),
    first_attempt_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    replay=st.none(),
    secret_waits=st.integers(0, 999),
    trace=st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
) | st.builds(
    RetryState,
    attempt=st.integers(5, 999),
    replay=st.builds(new_replay_id),
    replay_from=st.integers(1, 5),
    secret_waits=st.integers(0, 999),
)


@given(progress=progresses)
def test_a_written_state_is_read_back(progress: RetryState) -> None:
    """Headers carry the whole state and, of the producer's headers, only the content type."""
    own = {"x-own": "1", "Content-Type": "application/json", "Nats-Msg-Id": "gone", HEADER_ATTEMPT: "77"}
    headers = progress.forward_headers(own)

    assert RetryState.from_headers(headers) == progress
    assert headers["content-type"] == "application/json"
    assert not headers.keys() & {"x-own", "Content-Type", "Nats-Msg-Id"}


def test_a_request_without_state_headers_is_a_first_attempt() -> None:
    """A producer sets no Oneprotect headers."""
    assert RetryState.from_headers({"content-type": "application/cloudevents+json"}) == RetryState()


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER_ATTEMPT: "0"},
        {HEADER_ATTEMPT: "-1"},
        {HEADER_ATTEMPT: "1.0"},
        {HEADER_ATTEMPT: "٣"},
        {HEADER_ATTEMPT: "9" * 40},
        {HEADER_REPLAY: "A B"},
        {HEADER_REPLAY: "r", HEADER_REPLAY_FROM: "2", HEADER_ATTEMPT: "1"},
        {HEADER_FIRST_ATTEMPT_AT: "yesterday"},
        {HEADER_FIRST_ATTEMPT_AT: "2026-01-01T00:00:00"},
        {HEADER_SECRET_WAITS: "many"},
    ],
)
def test_an_invalid_state_header_is_refused_by_name(headers: dict[str, str]) -> None:
    """The error names the header, and does not repeat its value."""
    with pytest.raises(ValueError, match="Oneprotect-") as raised:
        RetryState.from_headers(headers)

    assert all(len(value) < 3 or value not in str(raised.value) for value in headers.values())


def test_the_next_attempt_has_the_next_number_and_no_waits() -> None:
    """Waits for a secret belong to one attempt."""
    progress = RetryState(attempt=3, secret_waits=5, first_attempt_at=datetime.now(UTC) - timedelta(hours=1))

    assert progress.after_attempt().attempt == 4
    assert progress.after_attempt().secret_waits == 0
    assert (progress.after_secret_wait().attempt, progress.after_secret_wait().secret_waits) == (3, 6)


def test_a_replay_starts_a_new_schedule() -> None:
    """Its first attempt is the first of the schedule, whatever its number."""
    assert RetryState(attempt=9, replay="rpl-1", replay_from=9).attempts_in_schedule == 1
    assert RetryState(attempt=9).attempts_in_schedule == 9


@given(one=progresses, other=progresses)
def test_only_equal_steps_have_equal_ids(one: RetryState, other: RetryState) -> None:
    """`Nats-Msg-Id` distinguishes attempts, waits and replays, so that only a repetition is a duplicate."""
    same_step = (one.attempt, one.replay, one.secret_waits) == (other.attempt, other.replay, other.secret_waits)

    assert (one.msg_id("t.d.x") == other.msg_id("t.d.x")) == same_step


def test_replay_ids_are_names() -> None:
    """A replay's id is a key in a bucket and a token in subjects."""
    assert is_name(new_replay_id())
