"""The state of the head of an ordered queue, from its results."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.delivery import head_state
from consumers.delivery.head_state import HeadState, HeadStateCache, head_state_from_results
from consumers.model.request import RetryState
from messaging.message import Message
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult

BEGAN = datetime(2026, 11, 25, tzinfo=UTC)


def _result(attempt: int, outcome: Outcome, code: Code = Code.HTTP_5XX, *, replay: str | None = None) -> AttemptResult:
    at = BEGAN + timedelta(seconds=attempt)
    return AttemptResult(
        delivery="dlv_1",
        destination="orders",
        event_type="invoice.paid",
        attempt=attempt,
        outcome=outcome,
        code=code,
        started_at=at,
        duration_ms=1,
        worker="w",
        next_attempt_at=at + timedelta(seconds=10) if outcome is Outcome.RETRY_SCHEDULED else None,
        replay=replay,
    )


def _message(destination: str) -> Message:
    nobody: Any = None
    subject, reply = subjects.ordered("acme", destination), b"$JS.ACK.ONEPROTECT_ORDERED.orders.1.7.7.0.0"
    return Message(subject, subjects.lane_of(subject), reply, b"", b"", nobody)


def _failed(attempt: int) -> AttemptResult:
    return _result(attempt, Outcome.RETRY_SCHEDULED)


def test_a_head_without_a_result_may_start_at_once() -> None:
    """The first attempt, or the one of a replay, may start at once."""
    standing = head_state_from_results(RetryState(attempt=4, replay="rpl-1", replay_from=4), [])

    assert (standing.retry_state.attempt, standing.due, standing.is_settled) == (4, None, False)


def test_the_next_attempt_follows_from_the_last_result() -> None:
    """Its number, its time, and the time of the first attempt come from the results."""
    standing = head_state_from_results(RetryState(), [_failed(1), _failed(2)])

    assert standing.retry_state.attempt == 3
    assert standing.due == BEGAN + timedelta(seconds=12)
    assert standing.retry_state.first_attempt_at == BEGAN + timedelta(seconds=1)


def test_waiting_for_a_secret_repeats_the_attempt() -> None:
    """The attempt keeps its number, and its waits are counted, until the receiver replies."""
    waits = [_result(2, Outcome.RETRY_SCHEDULED, Code.SECRET_NOT_FOUND)] * 2
    waiting = head_state_from_results(RetryState(), [_failed(1), *waits]).retry_state
    after = head_state_from_results(RetryState(), [_failed(1), *waits, _failed(2)]).retry_state

    assert (waiting.attempt, waiting.secret_waits) == (2, 2)
    assert (after.attempt, after.secret_waits) == (3, 0)


def test_a_final_result_settles_the_head() -> None:
    """Delivered, failed or skipped: later results do not matter."""
    for outcome in (Outcome.DELIVERED, Outcome.FAILED, Outcome.SKIPPED):
        standing = head_state_from_results(
            RetryState(), [_failed(1), _result(2, outcome), _result(2, Outcome.SUPPRESSED)]
        )

        assert standing.is_settled
        assert standing.retry_state.attempt == 2


def test_results_of_other_replays_do_not_count() -> None:
    """Earlier attempts and attempts of another replay do not change the state."""
    before = [_failed(1), _result(2, Outcome.FAILED), _result(3, Outcome.FAILED, replay="rpl-0")]
    standing = head_state_from_results(RetryState(attempt=3, replay="rpl-1", replay_from=3), before)

    assert (standing.retry_state.attempt, standing.is_settled) == (3, False)


async def test_a_head_that_another_consumer_got_is_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states noted last are kept."""
    monkeypatch.setattr(head_state, "MAX_NOTED", 2)
    cache = HeadStateCache()
    heads = {name: _message(name) for name in ("one", "two", "three")}
    for name in ("one", "two", "one", "three"):
        cache.note("acme", name, heads[name], HeadState(RetryState()))

    kept = [name for name, head in heads.items() if cache.take(f"acme.{name}", head) is not None]

    assert kept == ["one", "three"]


@given(st.lists(st.sampled_from(["failed", "secret", "suppressed"]), max_size=30))
def test_attempts_count_failures_and_nothing_else(course: list[str]) -> None:
    """The next attempt is one more than the replies, and its waits are those since the last reply."""
    results: list[AttemptResult] = []
    attempt = 1
    for step in course:
        if step == "failed":
            results.append(_failed(attempt))
            attempt += 1
        elif step == "secret":
            results.append(_result(attempt, Outcome.RETRY_SCHEDULED, Code.SECRET_DENIED))
        elif results:
            results.append(msgspec.structs.replace(results[-1], outcome=Outcome.SUPPRESSED))
    standing = head_state_from_results(RetryState(), results)

    since_last = [step for step in course if step != "suppressed"]
    while "failed" in since_last:
        since_last = since_last[since_last.index("failed") + 1 :]
    assert standing.retry_state.attempt == 1 + course.count("failed")
    assert standing.retry_state.secret_waits == len(since_last)
