"""Whether this process can do its work, told so that it does not flap.

A dependency that is away for a moment comes back by itself, and restarting or unlisting every pod meanwhile would only
add to it. So readiness is lost only when the work has not been possible for `patience_s` on end.
"""

import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 30.0


class ReadinessState:
    """Before the work has once been possible, nothing is ready.

    What drains stays ready: it still does its work, and losing it is no news to whoever asked it to stop.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._works: Callable[[], bool] = lambda: False
        self._patience_s = patience_s
        self._clock = clock
        self._worked_at: float | None = None
        self._draining = False

    def watch(self, works: Callable[[], bool]) -> None:
        """From now on `works` says whether the work is possible right now."""
        self._works = works

    def drain(self) -> None:
        """From now on it drains."""
        self._draining = True

    def look(self) -> bool:
        """Whether it is ready. Call it at least every few seconds: what nobody looks at has not been seen to work."""
        now = self._clock()
        if self._draining:
            return True
        if self._works():
            self._worked_at = now
        return self._worked_at is not None and now - self._worked_at < self._patience_s

    @property
    def word(self) -> str:
        """What to answer who asks: `ready`, `draining`, `starting` or `waiting`."""
        if self._draining:
            return "draining"
        if self.look():
            return "ready"
        return "starting" if self._worked_at is None else "waiting"
