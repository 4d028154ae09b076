"""The hourly statistics of destinations: counted where attempts end, merged into a bucket once a minute.

The attempt log has these numbers as well, but millions of entries for a busy destination, and a page of the console
shows a thousand destinations. A row per destination holds a day of hours, for one write a minute and nothing that a
delivery waits for. A consumer that is killed loses a minute of counts at most; the attempt log is the source of truth.
"""

import asyncio
import collections
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.periodic import pause
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.hourly_stats import TIMES_MS, HourCounts, HourlyStats

FLUSH_INTERVAL_S: Final = 60.0

_log = structlog.get_logger(__name__)


class _HourCount(msgspec.Struct):
    """Attempts that one consumer made on a destination in the current hour."""

    delivered: int = 0
    failed: int = 0
    times: list[int] = msgspec.field(default_factory=lambda: [0] * (len(TIMES_MS) + 1))

    def hour(self, at: int) -> HourCounts:
        return HourCounts(at, self.delivered, self.failed, tuple(self.times))


class HourlyStatsRecorder:
    """Counts attempts, and merges the counts into the bucket."""

    def __init__(self, bucket: KvBucket, *, clock: Callable[[], float] = time.time) -> None:
        self._rows = KvTable(bucket, HourlyStats)
        self._clock = clock
        self._counts: collections.defaultdict[str, _HourCount] = collections.defaultdict(_HourCount)
        self._hour = 0
        self._hour_began_s = self._hour_ends_s = 0.0
        self._unflushed: dict[str, list[HourCounts]] = {}

    def record_attempt(self, lane: str, result: AttemptResult, now_s: float) -> None:
        """Count an attempt on `<tenant>.<id>` that ended at `now_s`, in seconds since 1970."""
        if result.outcome is Outcome.SKIPPED or result.code is Code.DESTINATION_NOT_FOUND:
            return
        if not self._hour_began_s <= now_s < self._hour_ends_s:
            self._begin_hour(hour_of(now_s))
        count = self._counts[lane]
        if result.outcome is Outcome.DELIVERED:
            count.delivered += 1
        else:
            count.failed += 1
        if result.http_status is not None:
            count.times[bisect_left(TIMES_MS, result.duration_ms)] += 1

    def _begin_hour(self, hour: int) -> None:
        self._close_hour()
        self._hour = hour
        self._hour_began_s, self._hour_ends_s = hour * 3600.0, (hour + 1) * 3600.0

    def _close_hour(self) -> None:
        counts, self._counts = self._counts, collections.defaultdict(_HourCount)
        for lane, count in counts.items():
            self._unflushed.setdefault(lane, []).append(count.hour(self._hour))

    async def run(self, stop: asyncio.Event) -> None:
        """Flush once a minute until `stop` is set. Call `flush` when the last attempt has ended."""
        while not await pause(FLUSH_INTERVAL_S, stop):
            await self.flush()

    def forget_tenant(self, tenant: str) -> None:
        """Drop the counts of a tenant's destinations."""
        for counts in (self._counts, self._unflushed):
            for lane in [lane for lane in counts if lane.startswith(f"{tenant}.")]:
                del counts[lane]

    async def flush(self) -> None:
        """Merge the counts into the bucket. Counts that can't be stored now are merged later."""
        self._close_hour()
        news, self._unflushed = self._unflushed, {}
        for key, hours in news.items():
            try:
                await self._flush_one(key, tuple(hours))
            except JetStreamError as error:
                _log.warning("hourly_stats.flush_failed", key=key, error=str(error))
                self._unflushed[key] = _merge_hours(hours + self._unflushed.get(key, []))

    async def _flush_one(self, key: str, hours: tuple[HourCounts, ...]) -> None:
        now = hour_of(self._clock())
        await self._rows.update(key, lambda stored: (stored or HourlyStats()).merged(hours, now))


def _merge_hours(hours: list[HourCounts]) -> list[HourCounts]:
    """Merge the counts of each hour, and keep one day at most."""
    return list(HourlyStats().merged(tuple(hours), max(hour.at for hour in hours)).hours)


def hour_of(time_s: float) -> int:
    """Return the number of hours since 1970."""
    return int(time_s // 3600)
