"""The retry policy for failed attempts and for missing secrets."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
from consumers.retries.policy import MAX_SECRET_WAIT_S, next_wait_s, secret_wait_s
from schemas.codes import Code
from schemas.configuration import RetryPolicy

POLICY: Final = RetryPolicy(schedule_s=(5, 300, 1800), jitter=0.2)
FAILED: Final = WebhookResponse(code=Code.HTTP_5XX, http_status=500)


def middle(low: float, high: float) -> float:
    """No jitter."""
    return (low + high) / 2


def test_each_attempt_has_its_wait_and_the_last_has_none() -> None:
    """Three waits cause four attempts."""
    waits = [next_wait_s(POLICY, tried=tried, reply=FAILED, spread=middle) for tried in (1, 2, 3, 4)]

    assert waits == [5, 300, 1800, None]


def test_an_empty_schedule_allows_no_retry() -> None:
    """An empty schedule means one attempt only."""
    assert next_wait_s(RetryPolicy(schedule_s=()), tried=1, reply=FAILED) is None


@pytest.mark.parametrize("code", [Code.HTTP_410, Code.NET_BLOCKED])
def test_some_codes_are_final(code: Code) -> None:
    """A receiver that is gone, or must not be called, gets no retry."""
    assert next_wait_s(POLICY, tried=1, reply=WebhookResponse(code=code)) is None


@pytest.mark.parametrize("code", sorted(set(Code) - {Code.HTTP_410, Code.NET_BLOCKED, Code.HTTP_2XX}))
def test_all_other_failures_are_retried(code: Code) -> None:
    """By the schedule; after a time-out, a minute later at the earliest."""
    waits = {code: 60.0 if code is Code.NET_TIMEOUT else 5.0}
    assert next_wait_s(POLICY, tried=1, reply=WebhookResponse(code=code), spread=middle) == waits[code]


@given(
    tried=st.integers(1, 3),
    retry_after_s=st.none() | st.floats(0, 1e7),
    point=st.floats(0, 1),
)
def test_jitter_is_bounded_and_retry_after_is_respected(tried: int, retry_after_s: float | None, point: float) -> None:
    """The wait is within 20 % of the schedule, or up to 20 % beyond the receiver's time, of which a day counts."""
    wait_s = next_wait_s(
        POLICY,
        tried=tried,
        reply=WebhookResponse(code=Code.HTTP_429, retry_after_s=retry_after_s),
        spread=lambda low, high: low + (high - low) * point,
    )

    asked_s = min(retry_after_s or 0, MAX_RETRY_AFTER_S)
    planned_s = POLICY.schedule_s[tried - 1]
    assert wait_s is not None
    assert wait_s >= asked_s
    assert wait_s >= planned_s * 0.8 - 1e-9
    assert wait_s <= max(asked_s * 1.2, planned_s * 1.2) + 1e-9


def test_waits_for_a_secret_end_after_three_days() -> None:
    """The last step of their schedule repeats until then."""
    schedule = (30.0, 60.0)

    def wait(waits: int, waited_s: float) -> float | None:
        return secret_wait_s(schedule, waits=waits, waited_s=waited_s, jitter=0.2, spread=middle)

    assert [wait(waits, 0) for waits in range(4)] == [30, 60, 60, 60]
    assert wait(100, MAX_SECRET_WAIT_S - 1) == 60
    assert wait(100, MAX_SECRET_WAIT_S) is None
