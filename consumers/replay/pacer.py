"""At most so many a second, evenly."""

import asyncio
from typing import Final

CATCH_UP_S: Final = 0.25
"""Who is late by more than this does not make up for it: after a pause there is no burst."""


class Pacer:
    """Tells when the next one may go. Without a rate that is at once."""

    __slots__ = ("_interval_s", "_next_at")

    def __init__(self, rate_per_s: float | None) -> None:
        self._interval_s = 1 / rate_per_s if rate_per_s else 0.0
        self._next_at: float | None = None

    def reserve_turn(self, now: float) -> float:
        """Take the next turn at the time `now` (seconds on any steady clock): how long to wait for it."""
        if not self._interval_s:
            return 0.0
        turn = now if self._next_at is None else max(self._next_at, now - CATCH_UP_S)
        self._next_at = turn + self._interval_s
        return max(0.0, turn - now)

    async def wait_turn(self, stop: asyncio.Event) -> None:
        """Wait for the next turn, or until `stop` is set."""
        wait_s = self.reserve_turn(asyncio.get_running_loop().time())
        if wait_s:
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                pass
