"""Attempts of a destination by hour, for charts."""

from typing import Final

from msgspec import Struct

HOURS: Final = 24
TIMES_MS: Final = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Upper bounds of the duration classes; one more class is for longer durations."""


class HourCounts(Struct, frozen=True, gc=False):
    """The counts of one hour. `at`: hours since 1970."""

    at: int
    delivered: int = 0
    failed: int = 0
    times: tuple[int, ...] = (0,) * (len(TIMES_MS) + 1)
    """Attempts with a response, by duration class."""

    def __add__(self, other: "HourCounts") -> "HourCounts":
        return HourCounts(
            max(self.at, other.at),
            self.delivered + other.delivered,
            self.failed + other.failed,
            tuple(one + another for one, another in zip(self.times, other.times, strict=True)),
        )


class HourlyStats(Struct, frozen=True):
    """The last hours with attempts, oldest first. Key: `<tenant>.<destination>`."""

    hours: tuple[HourCounts, ...] = ()

    def merged(self, news: tuple[HourCounts, ...], now: int) -> "HourlyStats":
        """Return the sum with new counts, without hours that are older than a day in the hour `now`."""
        hours = {hour.at: hour for hour in self.hours}
        for hour in news:
            hours[hour.at] = hours[hour.at] + hour if hour.at in hours else hour
        return HourlyStats(tuple(hours[at] for at in sorted(hours) if at > now - HOURS))

    def last_day(self, now: int) -> list[HourCounts]:
        """Return the 24 hours that end with the hour `now`, oldest first."""
        hours = {hour.at: hour for hour in self.hours}
        return [hours.get(at, HourCounts(at)) for at in range(now - HOURS + 1, now + 1)]


def success_rate(hour: HourCounts) -> float | None:
    """Return the share of delivered attempts, or None without attempts."""
    attempts = hour.delivered + hour.failed
    return hour.delivered / attempts if attempts else None


def percentile_ms(hour: HourCounts, share: float) -> float | None:
    """Return the duration percentile in ms, interpolated in its class, or None without attempts.

    Args:
        share: 0.95 for the 95th percentile.
    """
    wanted, seen = share * sum(hour.times), 0
    if not wanted:
        return None
    for lower, upper, count in zip((0, *TIMES_MS), (*TIMES_MS, 3 * TIMES_MS[-1]), hour.times, strict=True):
        if count and seen + count >= wanted:
            return lower + (upper - lower) * (wanted - seen) / count
        seen += count
    return None
