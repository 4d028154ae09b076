"""Whether a read is tried again at once, after a pause, or not at all."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from provider.kubernetes.response import ApiServerResponse, ResponseFault

MAX_RETRIES: Final = 2
LONGEST_PAUSE_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.1


class ReadRetryPolicy(Struct, frozen=True, kw_only=True):
    """How a read waits between its tries."""

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    spread: Callable[[float, float], float] = random.uniform
    """Draws from a range."""

    def pause_s(self, outcome: ApiServerResponse | ResponseFault, retries: int) -> float | None:
        """How long to wait before the next try, after so many retries; None when there should be none.

        What the server asks for, though not more than two seconds, or else a draw from up to 0.1 and then 0.2 s.
        An answer that was understood is final, and so is one that only a person can change: a certificate that is not
        trusted, a status that no API server sends.
        """
        if retries >= MAX_RETRIES or outcome is ResponseFault.NOT_SENT or outcome is ResponseFault.UNTRUSTED:
            return None
        if outcome is ResponseFault.OUTDATED:
            return 0.0
        if isinstance(outcome, ApiServerResponse):
            if not outcome.is_overload and outcome.status != 200:
                return None
            if outcome.retry_after_s is not None:
                return min(outcome.retry_after_s, LONGEST_PAUSE_S)
        return self.spread(0.0, FIRST_PAUSE_S * 2**retries)


ORDINARY: Final = ReadRetryPolicy()
"""On the event loop's clock, at random."""
