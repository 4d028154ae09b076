"""How attempts go over a day: counted by each consumer where they end, and put together in a bucket once a minute.

The same could be counted from the attempts on record, but a busy destination has millions of them, and a page of a
thousand destinations is to be had in milliseconds. So a row for each destination holds a day of hours; what it costs is
one write a minute for each destination that is attempted, and nothing that a delivery waits for. A consumer that is
killed takes at most a minute of its counts with it; the attempts on record are the truth.
"""

import asyncio
import collections
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.periodic import pause
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.hourly_stats import TIMES_MS, HourCounts, HourlyStats

FLUSH_INTERVAL_S: Final = 60.0

_log = structlog.get_logger(__name__)


class _HourCount:
    """What one consumer saw of a destination in the present hour."""

    __slots__ = ("delivered", "failed", "times")

    def __init__(self) -> None:
        self.delivered = 0
        self.failed = 0
        self.times = [0] * (len(TIMES_MS) + 1)

    def hour(self, at: int) -> HourCounts:
        return HourCounts(at, self.delivered, self.failed, tuple(self.times))


class HourlyStatsRecorder:
    """Hears how attempts end."""

    def __init__(self, bucket: KvBucket, *, clock: Callable[[], float] = time.time) -> None:
        self._rows = KvTable(bucket, HourlyStats)
        self._clock = clock
        self._counts: collections.defaultdict[str, _HourCount] = collections.defaultdict(_HourCount)
        self._hour = 0
        self._hour_began_s = self._hour_ends_s = 0.0
        self._untold: dict[str, list[HourCounts]] = {}

    def record_attempt(self, lane: str, result: AttemptResult, now_s: float) -> None:
        """An attempt on `<tenant>.<id>` ended at `now_s`, since 1970. Cheap: every delivery comes through here."""
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
        self._set_aside()
        self._hour = hour
        self._hour_began_s, self._hour_ends_s = hour * 3600.0, (hour + 1) * 3600.0

    def _set_aside(self) -> None:
        """What was counted up to now waits to be told."""
        counts, self._counts = self._counts, collections.defaultdict(_HourCount)
        for lane, count in counts.items():
            self._untold.setdefault(lane, []).append(count.hour(self._hour))

    async def run(self, stop: asyncio.Event) -> None:
        """Tell what was counted, once a minute, until `stop` is set; `flush` when the last attempt has ended."""
        while not await pause(FLUSH_INTERVAL_S, stop):
            await self.flush()

    async def flush(self) -> None:
        """Put what was counted together with what is kept. What can't be stored now is, later."""
        self._set_aside()
        news, self._untold = self._untold, {}
        for key, hours in news.items():
            try:
                await self._tell(key, tuple(hours))
            except JetStreamError as error:
                _log.warning("activity.untold", key=key, error=str(error))
                self._untold[key] = _joined(hours + self._untold.get(key, []))

    async def _tell(self, key: str, hours: tuple[HourCounts, ...]) -> None:
        now = hour_of(self._clock())
        await self._rows.update(key, lambda stored: (stored or HourlyStats()).merged(hours, now))


def _joined(hours: list[HourCounts]) -> list[HourCounts]:
    """One of each hour, and a day of them at most."""
    return list(HourlyStats().merged(tuple(hours), max(hour.at for hour in hours)).hours)


def hour_of(time_s: float) -> int:
    """The number of the hour since 1970."""
    return int(time_s // 3600)
