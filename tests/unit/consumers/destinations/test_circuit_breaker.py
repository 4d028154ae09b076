"""State of a circuit breaker together with the observed attempts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consumers.destinations.circuit_breaker import HealthDelta, HealthPolicy, apply_health_delta
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from schemas.configuration import Health

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = HealthPolicy(failures=3, failing_for=timedelta(seconds=10), open_for=timedelta(seconds=5))
FAILED = WebhookResponse(code=Code.HTTP_5XX, http_status=500)


def _tally(*steps: bool, now: datetime = NOW) -> HealthDelta:
    tally = HealthDelta()
    for succeeded in steps:
        if succeeded:
            tally.record_success(now)
        else:
            tally.record_failure(now, FAILED, "https://example.com/")
    return tally


def test_a_burst_of_failures_opens_no_breaker() -> None:
    """A breaker opens only after a time without any success."""
    health = apply_health_delta(Health(), _tally(*[False] * 100), POLICY, NOW)

    assert health.consecutive_failures == 100
    assert health.open_until is None


def test_open_periods_double_up_to_a_bound() -> None:
    """Each open period in a row is twice as long, up to a bound, and is not prolonged."""
    health = apply_health_delta(Health(), _tally(False, False, False), POLICY, NOW)
    lengths: list[float] = []
    now = NOW + timedelta(seconds=10)
    for _ in range(10):
        health = apply_health_delta(health, _tally(False, now=now), POLICY, now)
        assert health.open_until is not None
        lengths.append((health.open_until - now).total_seconds())
        assert apply_health_delta(health, _tally(False, now=now), POLICY, now).open_until == health.open_until
        now = health.open_until

    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]


def test_one_success_resets_all_failures() -> None:
    """A destination that accepts one delivery is healthy."""
    bad = Health(consecutive_failures=50, failing_since=NOW, openings=4, warnings=2, open_until=NOW)

    health = apply_health_delta(bad, _tally(False, True), POLICY, NOW + timedelta(seconds=1))

    assert (health.consecutive_failures, health.failing_since, health.openings, health.open_until) == (0, None, 0, None)
    assert health.last_success_at == NOW


@given(retry_after_s=st.none() | st.floats(0, 1e6))
def test_a_429_pauses_for_a_bounded_time(retry_after_s: float | None) -> None:
    """The pause is at least the requested time, up to an hour, and ten seconds by default."""
    tally = HealthDelta()
    tally.record_failure(
        NOW, WebhookResponse(code=Code.HTTP_429, http_status=429, retry_after_s=retry_after_s), "https://example.com/"
    )

    health = apply_health_delta(Health(), tally, POLICY, NOW)

    rest_s = (health.open_until - NOW).total_seconds() if health.open_until else 0
    assert abs(rest_s - min(retry_after_s or 10, 86_400)) < 1e-3 or (retry_after_s or 10) < 1e-3
    assert health.openings == 0


@given(steps=st.lists(st.lists(st.booleans(), max_size=6), max_size=6))
def test_failures_of_several_consumers_add_up(steps: list[list[bool]]) -> None:
    """Several consumers together count consecutive failures as one consumer does."""
    health = Health()
    for part in steps:
        health = apply_health_delta(health, _tally(*part), POLICY, NOW)

    flat = [step for part in steps for step in part]
    trailing = next((i for i, step in enumerate(reversed(flat)) if step), len(flat))
    assert health.consecutive_failures == trailing


@given(st.lists(st.booleans(), max_size=5), st.lists(st.booleans(), max_size=5))
def test_attempts_that_could_not_be_stored_count_as_if_they_were_stored_later(
    earlier: list[bool], later: list[bool]
) -> None:
    """Two deltas that are put together have the effect of one delta with all attempts."""
    together = _tally(*later)
    together.add_earlier(_tally(*earlier))

    stored = [apply_health_delta(Health(), one, POLICY, NOW) for one in (together, _tally(*earlier, *later))]

    assert stored[0] == stored[1]


def test_the_longest_pause_wins() -> None:
    """A pause that could not be stored is not lost."""
    pauses = [HealthDelta(throttled_until=NOW + timedelta(seconds=s)) for s in (5, 60)]
    pauses[0].add_earlier(pauses[1])
    assert pauses[0].throttled_until == NOW + timedelta(seconds=60)
