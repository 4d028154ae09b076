"""The retry schedule: the number of attempts and the bounds of each wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
from consumers.retries.policy import FINAL_CODES, next_wait_s
from schemas.codes import Code
from schemas.configuration import RetryPolicy

pytestmark = pytest.mark.retry

policies = st.builds(
    RetryPolicy,
    schedule_s=st.lists(st.floats(0.1, 259_200), max_size=12).map(tuple),
    jitter=st.floats(0, 0.9),
    after_timeout_s=st.floats(0, 3600),
)
failures = st.builds(
    WebhookResponse,
    code=st.sampled_from(sorted(set(Code) - FINAL_CODES - {Code.HTTP_2XX})),
    retry_after_s=st.none() | st.floats(0, 1e6),
)


@given(policy=policies, replies=st.lists(failures, min_size=14, max_size=14), point=st.floats(0, 1))
def test_a_delivery_that_never_succeeds_has_one_attempt_more_than_waits(
    policy: RetryPolicy, replies: list[WebhookResponse], point: float
) -> None:
    """Every wait of the schedule is used once, in order, and then it is given up on: no reply adds or spares one."""
    waits = [
        next_wait_s(policy, tried=tried, reply=reply, spread=lambda low, high: low + (high - low) * point)
        for tried, reply in enumerate(replies, 1)
    ]

    given_up = waits.index(None)
    assert given_up == len(policy.schedule_s)
    assert set(waits[given_up:]) == {None}


@given(policy=policies, reply=failures, tried=st.integers(1, 12), point=st.floats(0, 1))
def test_each_wait_meets_all_minimums(policy: RetryPolicy, reply: WebhookResponse, tried: int, point: float) -> None:
    """A wait lies between the longest minimum and the longest maximum of its sources."""
    wait_s = next_wait_s(policy, tried=tried, reply=reply, spread=lambda low, high: low + (high - low) * point)

    if wait_s is None:
        assert tried > len(policy.schedule_s)
        return
    planned_s = policy.schedule_s[tried - 1]
    asked_s = min(reply.retry_after_s or 0, MAX_RETRY_AFTER_S)
    least_s = policy.after_timeout_s if reply.code is Code.NET_TIMEOUT else 0
    tolerance = 1e-9 * planned_s
    assert wait_s >= max(planned_s * (1 - policy.jitter) - tolerance, asked_s, least_s)
    assert wait_s <= max(planned_s * (1 + policy.jitter) + tolerance, asked_s * (1 + policy.jitter), least_s)


@given(policy=policies, code=st.sampled_from(sorted(FINAL_CODES)), tried=st.integers(1, 12))
def test_a_final_failure_is_never_retried(policy: RetryPolicy, code: Code, tried: int) -> None:
    """The delivery ends at any attempt, even with a `Retry-After`."""
    assert next_wait_s(policy, tried=tried, reply=WebhookResponse(code=code, retry_after_s=5)) is None
