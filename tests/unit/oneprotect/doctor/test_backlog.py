"""Overdue schedules."""

from datetime import UTC, datetime, timedelta

from messaging.direct_get import StoredMessage
from oneprotect.doctor.backlog import count_overdue
from schemas.headers import HEADER_SCHEDULE

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def _schedule(at: str) -> StoredMessage:
    return StoredMessage("oneprotect.delivery.scheduled.a.b.c", 1, NOW, b"", {HEADER_SCHEDULE: at})


def test_schedules_are_overdue_a_minute_late() -> None:
    """A schedule is overdue a minute after its time. A schedule with an unreadable time is not."""
    times = [
        NOW - timedelta(hours=1),
        NOW - timedelta(seconds=61),
        NOW - timedelta(seconds=30),
        NOW + timedelta(days=1),
    ]
    records = [_schedule(f"@at {time.isoformat().replace('+00:00', 'Z')}") for time in times]
    unreadable = [_schedule("@every 5s"), _schedule("@at soon"), _schedule("")]

    assert count_overdue(records, NOW) == 2
    assert count_overdue(unreadable, NOW) == 0
