"""Circuit breaker: after repeated failures it refuses calls for a while, then admits one probe.

A provider has one breaker. A breaker per tenant or Secret would send many probes to an overloaded API server.
"""

import random
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, final

THRESHOLD: Final = 5
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

Ticket = int
"""Generation of the breaker in which a call was admitted."""


class BreakerState(StrEnum):
    """State of the breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CallOutcome(StrEnum):
    """Result of a call, as the breaker counts it."""

    ALIVE = "alive"
    FAILED = "failed"
    NOTHING = "nothing"
    """The call was cancelled or never sent."""


@final
class CircuitBreaker:
    """Breaker that opens after five failures in a row. Each pause doubles, up to 30 s, until a call succeeds."""

    __slots__ = ("_clock", "_failures", "_generation", "_jitter", "_open_until", "_pause_s", "_probing", "opened")

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Start closed. `jitter` draws from a range: a pod pauses between half and all of the length."""
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._probing = False
        self._generation: Ticket = 0
        self.opened = 0
        """Number of times that the breaker opened."""

    @property
    def state(self) -> BreakerState:
        """State at this moment."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    @property
    def is_refusing(self) -> bool:
        """True if a call would not be admitted now."""
        state = self.state
        return state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._probing)

    def admit_call(self) -> Ticket | None:
        """Admit a call and return its ticket for `record_outcome`, or None if the call must not be made."""
        if self.is_refusing:
            return None
        self._probing = self.state is BreakerState.HALF_OPEN
        return self._generation

    def record_outcome(self, ticket: Ticket, outcome: CallOutcome) -> None:
        """Record the result of a call. A success always counts; other results only in the same generation."""
        if outcome is CallOutcome.ALIVE:
            self._close()
        elif ticket == self._generation:
            self._probing = False
            if outcome is CallOutcome.FAILED:
                self._count_failure()

    def _count_failure(self) -> None:
        self._failures += 1
        if self._open_until is not None or self._failures >= THRESHOLD:
            self._open_until = self._clock() + self._pause_s * self._jitter(0.5, 1.0)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._generation += 1
            self.opened += 1

    def _close(self) -> None:
        if self._open_until is not None:
            self._generation += 1
        self._open_until = None
        self._probing = False
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
