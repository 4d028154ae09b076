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
        self._checks: list[tuple[str, Callable[[], bool]]] = []
        self._problems: tuple[str, ...] = ()
        self._patience_s = patience_s
        self._clock = clock
        self._worked_at: float | None = None
        self._draining = False

    def add_check(self, problem: str, can_work: Callable[[], bool]) -> None:
        """Add a function that returns true while the process can work, and the problem when it cannot."""
        self._checks.append((problem, can_work))

    def drain(self) -> None:
        """Mark the process as draining."""
        self._draining = True

    def check(self) -> bool:
        """Return true if the process is ready. Call it every few seconds, so that it sees the process work."""
        now = self._clock()
        if self._draining:
            return True
        self._problems = tuple(problem for problem, can_work in self._checks if not can_work())
        if self._checks and not self._problems:
            self._worked_at = now
        return self._worked_at is not None and now - self._worked_at < self._patience_s

    def explain(self) -> str:
        """Return the status, and below it each present problem of a process that is not ready."""
        status = self.status
        return "\n".join([status, *(self._problems if status in ("starting", "waiting") else ())])

    @property
    def status(self) -> str:
        """`ready`, `draining`, `starting` or `waiting`."""
        if self._draining:
            return "draining"
        if self.check():
            return "ready"
        return "starting" if self._worked_at is None else "waiting"
