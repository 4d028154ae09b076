"""Readiness of a process, without flapping.

A short outage of a dependency must not restart or unlist every pod. So a process becomes unready only after it has been
unable to work for `patience_s` without interruption.
"""

import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 30.0


class ReadinessState:
    """The readiness of one process.

    A process is not ready before it has once been able to work. A draining process stays ready.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._can_work: Callable[[], bool] = lambda: False
        self._patience_s = patience_s
        self._clock = clock
        self._worked_at: float | None = None
        self._draining = False

    def set_check(self, can_work: Callable[[], bool]) -> None:
        """Set the function that returns true while the process can work."""
        self._can_work = can_work

    def drain(self) -> None:
        """Mark the process as draining."""
        self._draining = True

    def check(self) -> bool:
        """Return true if the process is ready. Call it every few seconds, so that it sees the process work."""
        now = self._clock()
        if self._draining:
            return True
        if self._can_work():
            self._worked_at = now
        return self._worked_at is not None and now - self._worked_at < self._patience_s

    @property
    def status(self) -> str:
        """`ready`, `draining`, `starting` or `waiting`."""
        if self._draining:
            return "draining"
        if self.check():
            return "ready"
        return "starting" if self._worked_at is None else "waiting"
