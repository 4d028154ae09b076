"""How often a client address may fail to authenticate. Bounded: of the addresses seen, the latest few thousand."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BURST: Final = 20
PER_S: Final = 0.5
MAX_ADDRESSES: Final = 4096


class FailureThrottle:
    """Counts failures by address: `BURST` of them at once, and then `PER_S` a second."""

    def __init__(
        self, *, burst: int = BURST, per_s: float = PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._free_at: OrderedDict[str, float] = OrderedDict()
        """When an address has made up for all of its failures."""

    def note(self, address: str) -> None:
        """It has failed."""
        source = _source(address)
        self._free_at[source] = max(self._free_at.pop(source, 0.0), self._clock()) + 1 / self._per_s
        if len(self._free_at) > MAX_ADDRESSES:
            self._free_at.popitem(last=False)

    def wait_s(self, address: str) -> int:
        """Whole seconds until it may fail again; 0 for now."""
        debt_s = self._free_at.get(_source(address), 0.0) - self._clock() - (self._burst - 1) / self._per_s
        return max(0, math.ceil(debt_s))


def _source(address: str) -> str:
    """Who has one IPv6 address has a whole /64 of them."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address
