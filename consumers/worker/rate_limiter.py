"""Rate limits per destination, held by all consumers together.

A destination's row in a bucket says until when its rate is spoken for. A consumer that has work takes the next slice by
moving that time on, with the row's revision, and may start as many attempts when its slice begins. So the rate holds
however the work is spread, and costs a few writes a second and destination, not one for each delivery.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable

SLICE_S: Final = 0.25
"""How much of a rate one consumer takes at a time."""
UNUSED_S: Final = 1.0
"""How long what was taken may be used; then it is gone, so that no burst is saved up."""
RETRY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class RateGrant(msgspec.Struct):
    """Starts that are left, and until when."""

    starts: int
    until: float


class RateReservation(msgspec.Struct, frozen=True):
    """The row: unix seconds until which the rate is taken."""

    until: float = 0.0


class RateLimiter:
    """Decides whether an attempt may start now. `rate_of` gives a lane's rate in attempts/s, or None for no limit."""

    def __init__(self, bucket: KvBucket, *, rate_of: Callable[[str], float | None]) -> None:
        self._rows = KvTable(bucket, RateReservation)
        self._rate_of = rate_of
        self._slices: dict[str, RateGrant] = {}
        self._taking: dict[str, asyncio.Task[None]] = {}
        self._on_grant: Callable[[str], None] = lambda _: None

    def on_grant(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a lane that may start again."""
        self._on_grant = callback

    def try_acquire(self, lane: str, waiting: int) -> bool:
        """Whether one of the `waiting` may start. If not, `on_grant` tells when to ask again."""
        rate_per_s = self._rate_of(lane)
        if rate_per_s is None:
            return True
        taken = self._slices.get(lane)
        if taken is not None and taken.starts > 0 and time.monotonic() < taken.until:
            taken.starts -= 1
            return True
        if lane not in self._taking:
            task = self._taking[lane] = asyncio.create_task(self._take(lane, rate_per_s, waiting))
            task.add_done_callback(lambda _: self._granted(lane))
        return False

    async def aclose(self) -> None:
        """Take no more."""
        tasks = list(self._taking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _granted(self, lane: str) -> None:
        del self._taking[lane]
        self._on_grant(lane)

    async def _take(self, lane: str, rate_per_s: float, waiting: int) -> None:
        """Take the next slice, at most of what waits, and be done when it begins."""
        starts = max(1, min(round(rate_per_s * SLICE_S), waiting))
        try:
            begins = await self._reserve(lane, starts / rate_per_s)
        except JetStreamError as error:
            _log.warning("rate.untaken", lane=lane, error=str(error))
            await asyncio.sleep(RETRY_S)  # without the row nobody knows what is free: nothing starts
            return
        await asyncio.sleep(max(0.0, begins - time.time()))
        self._slices[lane] = RateGrant(starts, time.monotonic() + UNUSED_S)

    async def _reserve(self, lane: str, length_s: float) -> float:
        """Move the row on by `length_s`, and return when that slice begins, in unix seconds."""

        def extend(row: RateReservation | None) -> RateReservation:
            return RateReservation(max(time.time(), row.until if row else 0.0) + length_s)

        return (await self._rows.update(lane, extend)).value.until - length_s
