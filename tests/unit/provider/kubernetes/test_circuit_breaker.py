"""The breaker: it leaves a failing provider alone for a while, and tries it with one call."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from provider.kubernetes.circuit_breaker import (
    LONGEST_PAUSE_S,
    THRESHOLD,
    BreakerState,
    CallOutcome,
    CircuitBreaker,
    Ticket,
)
from tests.kubernetes.resolving import Clock


def made(jitter: Callable[[float, float], float] = max) -> tuple[CircuitBreaker, Clock]:
    """Return a breaker with the longest pauses, and its clock."""
    clock = Clock()
    return CircuitBreaker(clock=clock, jitter=jitter), clock


def call(breaker: CircuitBreaker, verdict: CallOutcome) -> bool:
    """Make one call with that result; False when the breaker refuses it."""
    ticket = breaker.admit_call()
    if ticket is None:
        return False
    breaker.record_outcome(ticket, verdict)
    return True


def fail(breaker: CircuitBreaker, times: int = THRESHOLD) -> None:
    for _ in range(times):
        assert call(breaker, CallOutcome.FAILED)


def test_the_breaker_opens_at_the_fifth_failure_in_a_row() -> None:
    """The breaker allows four failures, and then refuses calls."""
    breaker, _ = made()

    fail(breaker, 4)
    before = breaker.state
    fail(breaker, 1)

    assert (before, breaker.state, breaker.opened) == (BreakerState.CLOSED, BreakerState.OPEN, 1)
    assert breaker.is_refusing
    assert breaker.admit_call() is None


def test_a_success_between_failures_resets_the_count() -> None:
    """A provider that fails now and then is not blocked."""
    breaker, _ = made()

    for _ in range(10):
        fail(breaker, 4)
        assert call(breaker, CallOutcome.ALIVE)

    assert breaker.state is BreakerState.CLOSED


def test_a_call_without_a_result_does_not_count() -> None:
    """A cancelled call is neither a success nor a failure."""
    breaker, _ = made()

    fail(breaker, 4)
    assert call(breaker, CallOutcome.NOTHING)
    before = breaker.state
    fail(breaker, 1)

    assert (before, breaker.state) == (BreakerState.CLOSED, BreakerState.OPEN)


def test_one_probe_is_allowed_after_the_pause() -> None:
    """Other calls wait for the probe, and its success closes the breaker."""
    breaker, clock = made()
    fail(breaker)
    clock.now_s += 0.999
    early = breaker.admit_call()
    clock.now_s += 0.001

    state, probe, other = breaker.state, breaker.admit_call(), breaker.admit_call()
    assert probe is not None
    breaker.record_outcome(probe, CallOutcome.ALIVE)

    assert (early, state, other) == (None, BreakerState.HALF_OPEN, None)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_without_a_result_allows_another() -> None:
    """The breaker would otherwise stay open forever."""
    breaker, clock = made()
    fail(breaker)
    clock.now_s += 1

    assert call(breaker, CallOutcome.NOTHING)

    assert (breaker.state, breaker.is_refusing) == (BreakerState.HALF_OPEN, False)
    assert call(breaker, CallOutcome.ALIVE)


def test_each_pause_is_twice_the_one_before_up_to_a_bound() -> None:
    """And after a success the first is short again."""
    breaker, clock = made()
    fail(breaker)

    pauses_s: list[float] = []
    for _ in range(7):
        began_s = clock.now_s
        while breaker.is_refusing:
            clock.now_s += 0.5
        pauses_s.append(clock.now_s - began_s)
        fail(breaker, 1)
    clock.now_s += LONGEST_PAUSE_S
    assert call(breaker, CallOutcome.ALIVE)
    fail(breaker)
    clock.now_s += 1

    assert pauses_s == [1, 2, 4, 8, 16, 30, 30]
    assert breaker.opened == 9
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_pause_may_be_half_as_long() -> None:
    """Random pauses keep breakers from probing together."""
    drawn: list[tuple[float, float]] = []

    def shortest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    breaker, clock = made(shortest)
    fail(breaker)
    clock.now_s += 0.5

    assert breaker.state is BreakerState.HALF_OPEN
    assert drawn == [(0.5, 1.0)]


@pytest.mark.parametrize("elapsed_s", [0.0, 1.0])
def test_failures_of_calls_from_before_it_opened_change_nothing(elapsed_s: float) -> None:
    """Eight calls that fail together open it once, and are not mistaken for the probe."""
    breaker, clock = made()
    tickets = [breaker.admit_call() for _ in range(8)]

    for ticket in tickets[:5]:
        assert ticket is not None
        breaker.record_outcome(ticket, CallOutcome.FAILED)
    clock.now_s += elapsed_s
    probe = breaker.admit_call()
    for ticket in tickets[5:]:
        assert ticket is not None
        breaker.record_outcome(ticket, CallOutcome.FAILED)

    assert breaker.opened == 1
    assert (probe is not None) is (breaker.state is BreakerState.HALF_OPEN)
    assert breaker.is_refusing


def test_a_late_success_closes_the_breaker() -> None:
    """Any success closes the breaker, and the probe no longer matters."""
    breaker, clock = made()
    late = breaker.admit_call()
    assert late is not None
    fail(breaker)
    clock.now_s += 1
    probe = breaker.admit_call()
    assert probe is not None

    breaker.record_outcome(late, CallOutcome.ALIVE)
    state = breaker.state
    breaker.record_outcome(probe, CallOutcome.FAILED)

    assert (state, breaker.state) == (BreakerState.CLOSED, BreakerState.CLOSED)
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED


def test_a_long_outage_does_not_overflow() -> None:
    """Pauses stop growing, after days as after minutes."""
    breaker, clock = made()
    fail(breaker)

    for _ in range(3000):
        clock.now_s += LONGEST_PAUSE_S
        fail(breaker, 1)

    clock.now_s += LONGEST_PAUSE_S
    assert breaker.state is BreakerState.HALF_OPEN


class Course(RuleBasedStateMachine):
    """Any course of events, with calls that overlap."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.clock = made()
        self.failures = 0
        """Since the last success."""
        self.probes = 0
        """Calls let through since it last opened or closed, while not closed."""
        self.opened = 0

    @rule(target=tickets)
    def begin(self) -> Ticket:
        state, ticket = self.breaker.state, self.breaker.admit_call()
        assert state is not BreakerState.CLOSED or ticket is not None
        assert state is not BreakerState.OPEN or ticket is None
        if state is BreakerState.HALF_OPEN and ticket is not None:
            self.probes += 1
        return -1 if ticket is None else ticket

    @rule(ticket=consumes(tickets), verdict=st.sampled_from(CallOutcome))
    def end(self, ticket: Ticket, verdict: CallOutcome) -> None:
        if ticket == -1:
            return
        before, opened = self.breaker.state, self.breaker.opened
        self.breaker.record_outcome(ticket, verdict)
        if verdict is CallOutcome.ALIVE:
            self.failures = 0
            assert self.breaker.state is BreakerState.CLOSED
        elif verdict is CallOutcome.FAILED:
            self.failures += 1
        else:
            assert self.breaker.state is before
        if self.breaker.opened > opened:
            assert self.failures >= THRESHOLD
        if verdict is not CallOutcome.FAILED or self.breaker.opened > opened:
            self.probes = 0

    @precondition(lambda self: self.breaker.state is not BreakerState.CLOSED)
    @rule(pause_s=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, pause_s: float) -> None:
        self.clock.now_s += pause_s

    @invariant()
    def one_probe_at_a_time(self) -> None:
        assert self.probes <= 1


Course.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCourse = Course.TestCase
