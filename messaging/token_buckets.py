"""Token buckets, one for each key, in the memory of one process."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_KEYS: Final = 16_384
"""The maximum number of buckets that are not full; the one that was used least recently counts as full."""
_ROUNDING_S: Final = 1e-6


class TokenBuckets:
    """A token bucket for each key: it holds `burst` tokens, and gets `per_s` tokens a second."""

    def __init__(self, *, burst: float, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """The time at which a bucket is full again."""

    def take(self, key: str, amount: float = 1) -> None:
        """Take tokens, even those that the bucket will only get later."""
        self._full_at[key] = max(self._full_at.pop(key, 0.0), self._clock()) + amount / self._per_s
        if len(self._full_at) > MAX_KEYS:
            self._full_at.popitem(last=False)

    def wait_s(self, key: str) -> int:
        """Return the whole seconds until the bucket has a token; 0 for now."""
        missing_s = self._full_at.get(key, 0.0) - self._clock() - (self._burst - 1) / self._per_s
        return max(0, math.ceil(missing_s - _ROUNDING_S))
