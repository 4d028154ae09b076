"""A circuit breaker: a provider that fails again and again is left alone for a while, then tried with one call.

There is one for a provider, never one for a tenant or a Secret: what fails here is the way to the API server, and a
breaker for each Secret would send it as many probes as there are Secrets when it can bear them least.
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


class BreakerState(StrEnum):
    """Whether calls are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CallOutcome(StrEnum):
    """What a call said about the provider."""

    ALIVE = "alive"
    FAILED = "failed"
    NOTHING = "nothing"
    """The call was not made in the end, or was called off."""


@final
class CircuitBreaker:
    """Opens after `THRESHOLD` failures in a row; each pause is twice the one before, until a call succeeds."""

    __slots__ = ("_clock", "_failures", "_open_until", "_pause_s", "_probe_is_out", "_round", "_spread", "opened")

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`spread` draws from a range: a pause is between half and all of its length, so that pods come one by one."""
        self._clock = clock
        self._spread = spread
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._probe_is_out = False
        self._round: Ticket = 0
        self.opened = 0
        """How often it has opened."""

    @property
    def state(self) -> BreakerState:
        """What holds now."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    @property
    def refuses(self) -> bool:
        """Whether a call would not be let through now."""
        state = self.state
        return state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._probe_is_out)

    def admit(self) -> Ticket | None:
        """Let a call through, for which `settle` must be called in the end; None if it is not to be made."""
        if self.refuses:
            return None
        self._probe_is_out = self.state is BreakerState.HALF_OPEN
        return self._round

    def settle(self, ticket: Ticket, verdict: CallOutcome) -> None:
        """Say how a call went. A success counts whenever it comes; the rest only if nothing has changed since."""
        if verdict is CallOutcome.ALIVE:
            self._close()
        elif ticket == self._round:
            self._probe_is_out = False
            if verdict is CallOutcome.FAILED:
                self._count_failure()

    def _count_failure(self) -> None:
        self._failures += 1
        if self._open_until is not None or self._failures >= THRESHOLD:
            self._open_until = self._clock() + self._pause_s * self._spread(0.5, 1.0)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._round += 1
            self.opened += 1

    def _close(self) -> None:
        if self._open_until is not None:
            self._round += 1
        self._open_until = None
        self._probe_is_out = False
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
