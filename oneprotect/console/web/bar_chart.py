"""A bar chart of attempts per hour: coordinates for a template, and a text alternative."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from schemas.hourly_stats import HourCounts, percentile_ms, success_rate

STEP: Final = 20
BAR: Final = 16
HEIGHT: Final = 100
_MIN_HEIGHT: Final = 3


class HourBar(Struct, frozen=True):
    """The bars of one hour; `y` is measured from the top."""

    x: int
    delivered_y: float
    delivered_height: float
    failed_y: float
    failed_height: float
    hour: str
    delivered: int
    failed: int
    p95_ms: float | None


class DaySummary(Struct, frozen=True, kw_only=True):
    """The attempts of 24 hours and their chart. `most`: attempts of the busiest hour. `text`: the chart in words."""

    attempts: int
    delivered: int
    success_rate: float | None
    p95_ms: float | None
    bars: tuple[HourBar, ...]
    width: int
    height: int = HEIGHT
    most: int
    text: str


def summarize_day(hours: Sequence[HourCounts]) -> DaySummary:
    """Return the summary of consecutive hours."""
    total = HourCounts(0)
    for hour in hours:
        total += hour
    most = max((hour.delivered + hour.failed for hour in hours), default=0)
    bars = tuple(_bar(number, hour, most) for number, hour in enumerate(hours))
    return DaySummary(
        attempts=total.delivered + total.failed,
        delivered=total.delivered,
        success_rate=success_rate(total),
        p95_ms=percentile_ms(total, 0.95),
        bars=bars,
        width=len(bars) * STEP,
        most=most,
        text=_describe(bars, total),
    )


def _bar(number: int, hour: HourCounts, most: int) -> HourBar:
    delivered, failed = (_height(count, most) for count in (hour.delivered, hour.failed))
    delivered = min(delivered, HEIGHT - failed)
    return HourBar(
        x=number * STEP + (STEP - BAR) // 2,
        delivered_y=HEIGHT - delivered,
        delivered_height=delivered,
        failed_y=HEIGHT - delivered - failed,
        failed_height=failed,
        hour=f"{datetime.fromtimestamp(hour.at * 3600, UTC):%H:%M}",
        delivered=hour.delivered,
        failed=hour.failed,
        p95_ms=percentile_ms(hour, 0.95),
    )


def _height(count: int, most: int) -> float:
    """Return a proportional height that is visible for any count but 0."""
    return max(_MIN_HEIGHT, round(count / most * HEIGHT, 1)) if count else 0


def _describe(bars: Sequence[HourBar], total: HourCounts) -> str:
    attempts = total.delivered + total.failed
    if not attempts:
        return "No attempts in the last 24 hours."
    text = f"{attempts} attempts in the last 24 hours, {total.delivered} of them delivered."
    worst = max(bars, key=lambda bar: bar.failed)
    return text + (f" Most failures: {worst.failed} in the hour from {worst.hour} UTC." if worst.failed else "")
