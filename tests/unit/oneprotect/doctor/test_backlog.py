"""Schedules that the server should have fired."""

from datetime import UTC, datetime, timedelta

from messaging.direct_get import StoredMessage
from oneprotect.doctor.backlog import overdue
from schemas import subjects

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def _schedule(at: str) -> StoredMessage:
    return StoredMessage("oneprotect.delivery.scheduled.a.b.c", 1, NOW, b"", {subjects.HEADER_SCHEDULE: at})


def test_schedules_are_overdue_a_minute_late() -> None:
    """A schedule that should have been fired more than a minute ago is overdue; one without a readable time is not."""
    times = [
        NOW - timedelta(hours=1),
        NOW - timedelta(seconds=61),
        NOW - timedelta(seconds=30),
        NOW + timedelta(days=1),
    ]
    records = [_schedule(f"@at {time.isoformat().replace('+00:00', 'Z')}") for time in times]
    unreadable = [_schedule("@every 5s"), _schedule("@at soon"), _schedule("")]

    assert overdue(records, NOW) == 2
    assert overdue(unreadable, NOW) == 0
