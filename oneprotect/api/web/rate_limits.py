"""Limits on the requests of tenants and callers, in the memory of one process.

Every API process has limits of its own. An installation with three processes therefore allows three times the rate.
"""

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from typing import Final

from oneprotect.api.web.problems import Problem
from schemas.roles import ALL_TENANTS

MAX_KEYS: Final = 16_384
"""The maximum number of buckets that are not full; the one that was used least recently counts as full."""
BURST_S: Final = 2.0
"""The time without requests after which the requests of this time are allowed at once."""
_ROUNDING_S: Final = 1e-6
FAN_OUT_SHARE: Final = 0.1
"""The cost of each further delivery of a fan-out, in requests."""


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


class TenantLimiter:
    """The rate of each tenant's requests, the rate of each caller, and the requests of each tenant in progress.

    A caller for all tenants, such as an operator, does not share the limits of the tenant that it acts for. It has the
    same limits once more for each tenant, and no limit of its own.
    """

    def __init__(
        self,
        *,
        tenant_per_s: float,
        caller_per_s: float,
        max_concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants = _buckets(tenant_per_s, clock)
        self._callers = _buckets(caller_per_s, clock)
        self._max_concurrent = max_concurrent
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def admit(self, tenant: str, caller: str = "", *, of: str = "") -> Generator[None]:
        """Count a request for `tenant` while the context is open. Raises `Problem` 429 beyond a limit.

        Args:
            caller: The id of the caller, if it has a limit of its own.
            of: The tenant of the caller, if it differs: `*` for callers for all tenants.
        """
        key = tenant
        if of == ALL_TENANTS:
            key, caller = f"{ALL_TENANTS}.{tenant}", ""
        if wait_s := self._tenants.wait_s(key):
            raise too_many("The tenant sends too many requests.", wait_s)
        if caller and (wait_s := self._callers.wait_s(caller)):
            raise too_many("This token sends too many requests.", wait_s)
        if self._running[key] >= self._max_concurrent:
            raise too_many(f"The tenant has {self._max_concurrent} requests in progress.", 1)
        self._tenants.take(key)
        if caller:
            self._callers.take(caller)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def is_exhausted(self, tenant: str) -> bool:
        """Return whether the tenant's next request would exceed its rate."""
        return self._tenants.wait_s(tenant) > 0

    def charge_fan_out(self, tenant: str, deliveries: int) -> None:
        """Count the deliveries of a fan-out beyond the first one, so that the next requests wait for them."""
        self._tenants.take(tenant, max(0, deliveries - 1) * FAN_OUT_SHARE)


def _buckets(per_s: float, clock: Callable[[], float]) -> TokenBuckets:
    return TokenBuckets(burst=max(1.0, per_s * BURST_S), per_s=per_s, clock=clock)


def too_many(reason: str, wait_s: int) -> Problem:
    """Return the problem of too many requests. `reason`: a sentence."""
    detail = f"{reason} Wait for the time in `Retry-After`, and send fewer at once."
    return Problem(429, "too-many-requests", detail, headers={"retry-after": str(wait_s)})
