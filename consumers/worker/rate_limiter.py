"""Rate limits per destination, shared by all consumers.

A destination's row in a bucket holds the time until which its rate is reserved. A consumer with work reserves the next
slice by moving that time, with a check of the row's revision, and starts the slice's attempts when the slice begins. A
rate costs a few writes a second for each destination, however many deliveries it has.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable

SLICE_S: Final = 0.25
"""The part of a rate that one consumer reserves at a time."""
GRANT_LIFETIME_S: Final = 1.0
"""How long a grant may be used. An unused one expires, so that it adds to no burst."""
RETRY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class RateGrant(msgspec.Struct):
    """The starts that are left of a slice, and until when."""

    starts: int
    until: float


class RateReservation(msgspec.Struct, frozen=True):
    """A row of the bucket: unix seconds until which the rate is reserved."""

    until: float = 0.0


class RateLimiter:
    """Decides whether an attempt may start now."""

    def __init__(self, bucket: KvBucket, rates: Mapping[str, float]) -> None:
        """Create a limiter without reservations.

        Args:
            bucket: The rows of all consumers.
            rates: The limits by lane, `<tenant>.<destination>`, in attempts a second; may change at any time.
        """
        self.rates = rates
        self._rows = KvTable(bucket, RateReservation)
        self._grants: OrderedDict[str, RateGrant] = OrderedDict()
        """By lane, the first to expire first."""
        self._reserving: dict[str, asyncio.Task[None]] = {}
        self._on_grant: Callable[[str], None] = lambda _: None

    def on_grant(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with each lane that may start again."""
        self._on_grant = callback

    def try_acquire(self, lane: str, waiting: int) -> bool:
        """Return whether one of the `waiting` attempts of `lane` may start. If not, `on_grant` follows."""
        rate_per_s = self.rates.get(lane)
        if rate_per_s is None:
            return True
        grant = self._grants.get(lane)
        if grant is not None and grant.starts > 0 and time.monotonic() < grant.until:
            grant.starts -= 1
            return True
        if lane not in self._reserving:
            task = self._reserving[lane] = asyncio.create_task(self._reserve_slice(lane, rate_per_s, waiting))
            task.add_done_callback(lambda _: self._end_reserving(lane))
        return False

    async def aclose(self) -> None:
        """Stop reserving."""
        tasks = list(self._reserving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end_reserving(self, lane: str) -> None:
        del self._reserving[lane]
        self._on_grant(lane)

    async def _reserve_slice(self, lane: str, rate_per_s: float, waiting: int) -> None:
        """Reserve the next slice, for at most what waits, and wait until the slice begins."""
        starts = max(1, min(round(rate_per_s * SLICE_S), waiting))
        try:
            begins = await self._reserve(lane, starts / rate_per_s)
        except JetStreamError as error:
            _log.warning("rate_limit.reserve_failed", lane=lane, error=str(error))
            await asyncio.sleep(RETRY_S)  # without the row no consumer knows what is free: nothing starts
            return
        await asyncio.sleep(max(0.0, begins - time.time()))
        now = time.monotonic()
        while self._grants and next(iter(self._grants.values())).until <= now:
            self._grants.popitem(last=False)
        self._grants[lane] = RateGrant(starts, now + GRANT_LIFETIME_S)
        self._grants.move_to_end(lane)

    async def _reserve(self, lane: str, length_s: float) -> float:
        """Extend the row by `length_s`, and return when the new slice begins, in unix seconds."""

        def extend(row: RateReservation | None) -> RateReservation:
            return RateReservation(max(time.time(), row.until if row else 0.0) + length_s)

        return (await self._rows.update(lane, extend)).value.until - length_s
