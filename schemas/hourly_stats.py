"""How a destination's attempts went, hour by hour, as consumers keep it in a bucket. It is a chart and no record."""

from typing import Final

from msgspec import Struct

HOURS: Final = 24
TIMES_MS: Final = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Upper bounds of the classes of durations; one more class is for what took longer."""


class HourCounts(Struct, frozen=True, gc=False):
    """What happened in one hour: `at` is its number since 1970."""

    at: int
    delivered: int = 0
    failed: int = 0
    times: tuple[int, ...] = (0,) * (len(TIMES_MS) + 1)
    """Attempts by duration, for those that an answer came to."""

    def __add__(self, other: "HourCounts") -> "HourCounts":
        return HourCounts(
            max(self.at, other.at),
            self.delivered + other.delivered,
            self.failed + other.failed,
            tuple(one + another for one, another in zip(self.times, other.times, strict=True)),
        )


class HourlyStats(Struct, frozen=True):
    """The last hours in which there were attempts, oldest first. Key: `<tenant>.<destination>`."""

    hours: tuple[HourCounts, ...] = ()

    def merged(self, news: tuple[HourCounts, ...], now: int) -> "HourlyStats":
        """Together with what was counted since, without what is too old in the hour `now`."""
        hours = {hour.at: hour for hour in self.hours}
        for hour in news:
            hours[hour.at] = hours[hour.at] + hour if hour.at in hours else hour
        return HourlyStats(tuple(hours[at] for at in sorted(hours) if at > now - HOURS))

    def last_day(self, now: int) -> list[HourCounts]:
        """One after another, the hours of a day that ends with the hour `now`."""
        hours = {hour.at: hour for hour in self.hours}
        return [hours.get(at, HourCounts(at)) for at in range(now - HOURS + 1, now + 1)]


def success_rate(hour: HourCounts) -> float | None:
    """The share of attempts that delivered; None when there was none."""
    attempts = hour.delivered + hour.failed
    return hour.delivered / attempts if attempts else None


def percentile_ms(hour: HourCounts, share: float) -> float | None:
    """The duration that `share` of the answered attempts stayed below, to within its class; None without any."""
    wanted, seen = share * sum(hour.times), 0
    if not wanted:
        return None
    for lower, upper, count in zip((0, *TIMES_MS), (*TIMES_MS, 3 * TIMES_MS[-1]), hour.times, strict=True):
        if count and seen + count >= wanted:
            return lower + (upper - lower) * (wanted - seen) / count
        seen += count
    return None
