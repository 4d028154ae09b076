"""A destination's day, hour by hour, as consumers keep it."""

from datetime import UTC, datetime

import pytest

from consumers.destinations.hourly_stats import HourlyStatsRecorder, hour_of
from messaging.kv import KvTable
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.hourly_stats import TIMES_MS, HourCounts, HourlyStats, percentile_ms, success_rate
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

NOW_S = 1_800_000_000.0
LANE = f"{TENANT}.orders"


def _result(outcome: Outcome, code: Code, *, status: int | None = None, duration_ms: float = 1) -> AttemptResult:
    return AttemptResult(
        delivery="dlv_1",
        destination="orders",
        event_type="invoice.paid",
        attempt=1,
        outcome=outcome,
        code=code,
        started_at=datetime.now(UTC),
        duration_ms=duration_ms,
        worker="test",
        http_status=status,
    )


async def _kept(site: Site) -> HourlyStats:
    row = await KvTable(site.jetstream.activity, HourlyStats).get(f"{TENANT}.orders")
    return row.value if row else HourlyStats()


async def test_a_consumer_stores_its_counts_when_it_stops(site: Site) -> None:
    """A consumer stores delivered and failed attempts and their durations when it stops."""
    async with Scripted([500, 200]) as receiver:
        await site.destination("orders", receiver.url)
        async with site.consumer():
            await site.deliver("orders")
            await until(site.is_settled, 10)

    hours = (await _kept(site)).hours
    assert (sum(hour.delivered for hour in hours), sum(hour.failed for hour in hours)) == (1, 1)
    assert sum(sum(hour.times) for hour in hours) == 2


async def test_counts_of_several_consumers_are_added(site: Site) -> None:
    """Concurrent writes are added; skipped deliveries do not count, and unanswered attempts have no duration."""
    several = [HourlyStatsRecorder(site.jetstream.activity, clock=lambda: NOW_S) for _ in range(2)]
    for one in several:
        one.record_attempt(LANE, _result(Outcome.DELIVERED, Code.HTTP_2XX, status=200, duration_ms=30), NOW_S)
        one.record_attempt(LANE, _result(Outcome.RETRY_SCHEDULED, Code.NET_TIMEOUT, duration_ms=15_000), NOW_S)
        one.record_attempt(LANE, _result(Outcome.SKIPPED, Code.DESTINATION_DISABLED), NOW_S)

    for one in several:
        await one.flush()

    (hour,) = (await _kept(site)).hours
    assert (hour.at, hour.delivered, hour.failed) == (hour_of(NOW_S), 2, 2)
    assert hour.times == (0, 0, 0, 2, *[0] * (len(TIMES_MS) - 3))


async def test_a_failed_write_is_repeated_later(site: Site) -> None:
    """A row that cannot be written now loses no counts."""
    one = HourlyStatsRecorder(site.jetstream.activity, clock=lambda: NOW_S)
    one.record_attempt(LANE, _result(Outcome.DELIVERED, Code.HTTP_2XX, status=200), NOW_S)
    await site.jetstream.connection.api("STREAM.DELETE.KV_oneprotect_activity")

    await one.flush()
    await site.apply()
    one.record_attempt(LANE, _result(Outcome.DELIVERED, Code.HTTP_2XX, status=200), NOW_S)
    await one.flush()

    (hour,) = (await _kept(site)).hours
    assert hour.delivered == 2


async def test_each_attempt_counts_in_the_hour_in_which_it_ended(site: Site) -> None:
    """An attempt counts in its own hour, even if the write is late or the clock is set back."""
    one = HourlyStatsRecorder(site.jetstream.activity, clock=lambda: NOW_S)
    for at in (NOW_S - 3600, NOW_S - 3600, NOW_S, NOW_S - 3600):
        one.record_attempt(LANE, _result(Outcome.DELIVERED, Code.HTTP_2XX, status=200), at)

    await one.flush()

    hours = (await _kept(site)).hours
    assert [(hour.at, hour.delivered) for hour in hours] == [(hour_of(NOW_S) - 1, 3), (hour_of(NOW_S), 1)]


def test_a_row_covers_one_day() -> None:
    """New hours replace the oldest, and a day without attempts has empty hours."""
    old = HourlyStats((HourCounts(100, 1), HourCounts(101, 2), HourCounts(123, 3)))

    new = old.merged((HourCounts(124, 4), HourCounts(123, 1)), now=125)

    assert [(hour.at, hour.delivered) for hour in new.hours] == [(123, 4), (124, 4)]
    assert [hour.at for hour in new.last_day(125)] == list(range(102, 126))
    assert sum(hour.delivered for hour in new.last_day(125)) == 8
    assert HourlyStats().last_day(30)[-1] == HourCounts(30)


def test_a_rate_and_a_percentile_come_from_counts() -> None:
    """The share that was delivered; a duration within its class; nothing from nothing."""
    hour = HourCounts(1, delivered=95, failed=5, times=(90, 0, 0, 10, *[0] * (len(TIMES_MS) - 3)))

    assert success_rate(hour) == 0.95
    assert percentile_ms(hour, 0.5) == pytest.approx(5 * 50 / 90)
    assert percentile_ms(hour, 0.95) == pytest.approx(20 + 30 / 2)
    assert percentile_ms(HourCounts(1, times=(*[0] * len(TIMES_MS), 1)), 0.95) == pytest.approx(10_000 + 0.95 * 20_000)
    assert success_rate(HourCounts(1)) is None
    assert percentile_ms(HourCounts(1), 0.95) is None
