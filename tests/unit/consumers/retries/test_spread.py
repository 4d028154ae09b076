"""The spread of retries over the seconds in which they are due."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from consumers.retries.policy import FIRST_PER_S, HORIZON_S, MIN_PER_S, RetrySpread

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PER_S = 300


def _seconds(due: list[datetime]) -> Counter[int]:
    return Counter(int(at.timestamp()) for at in due)


def test_retries_that_have_room_are_due_when_they_were_planned() -> None:
    """A third of the room of a second is one tenant's."""
    spread = RetrySpread(PER_S)

    due = {spread.due_after("acme", 30.25, NOW) for _ in range(PER_S // 3)}

    assert due == {NOW + timedelta(seconds=30.25)}


def test_no_second_has_more_than_a_third_of_its_room_for_one_tenant() -> None:
    """Ten thousand retries that a receiver asks for at one moment become due in as many seconds as they need."""
    spread = RetrySpread(PER_S)

    due = [spread.due_after("acme", 30.25, NOW) for _ in range(10_000)]

    assert min(due) == NOW + timedelta(seconds=30.25)
    assert max(_seconds(due).values()) <= PER_S / 3 + 1  # of the microseconds that are rounded
    assert max(due) < NOW + timedelta(seconds=31.25 + 10_000 / (PER_S / 3))


def test_the_retry_of_another_tenant_is_due_when_it_was_planned() -> None:
    """A tenant leaves free what another one needs, also when a dozen tenants have as many retries as they may."""
    spread = RetrySpread(PER_S)
    for number in range(12 * PER_S):
        spread.due_after(f"flood-{number % 12}", 30.25, NOW)

    assert spread.due_after("globex", 30.25, NOW) == NOW + timedelta(seconds=30.25)


def test_all_tenants_together_stay_within_the_room_of_a_second() -> None:
    """Thousands of tenants with a retry each are no exception."""
    spread = RetrySpread(PER_S)

    due = [spread.due_after(f"tenant-{number}", 30.25, NOW) for number in range(10 * PER_S)]

    assert max(_seconds(due).values()) < PER_S


def test_what_is_past_and_what_is_far_ahead_takes_no_memory() -> None:
    """Only the seconds of the next minutes are counted."""
    spread = RetrySpread(PER_S)
    spread.due_after("acme", HORIZON_S + 2, NOW)
    assert not spread._seconds  # pyright: ignore[reportPrivateUsage]

    for second in range(5000):
        spread.due_after("acme", 1, NOW + timedelta(seconds=second))

    assert len(spread._seconds) <= 3  # pyright: ignore[reportPrivateUsage]


def _fire(spread: RetrySpread, *, per_s: int, late_s: float, seconds: int = 5, begin: int = 1000) -> None:
    for second in range(begin, begin + seconds):
        for _ in range(per_s):
            spread.note_fired(second - late_s, second)


def test_a_second_has_more_room_when_the_server_fires_in_time() -> None:
    """One tenant that fills its third of each second lets the room grow to the limit."""
    spread = RetrySpread(1000)
    assert spread.per_s == FIRST_PER_S

    for second in range(10):
        _fire(spread, per_s=spread.per_s // 3, late_s=0.2, seconds=2, begin=1000 + 2 * second)

    assert spread.per_s == 1000


def test_a_few_retries_prove_nothing_about_the_server() -> None:
    """The room stays as it is."""
    spread = RetrySpread(1000)

    _fire(spread, per_s=5, late_s=0.2)

    assert spread.per_s == FIRST_PER_S


def test_a_second_has_less_room_when_the_server_is_late() -> None:
    """The room follows what the server fires, and has a lower bound."""
    spread = RetrySpread(1000)

    _fire(spread, per_s=100, late_s=6)
    assert spread.per_s == 80
    assert spread.late_s == 6

    _fire(spread, per_s=MIN_PER_S + 1, late_s=6, begin=2000)
    assert spread.per_s == MIN_PER_S


def test_a_few_late_retries_prove_nothing_either() -> None:
    """After an outage of the server they are late, however few they are."""
    spread = RetrySpread(1000)

    _fire(spread, per_s=3, late_s=20)

    assert spread.per_s == FIRST_PER_S
    assert spread.late_s == 20


def test_the_retry_of_another_tenant_is_due_when_it_was_planned_after_the_room_has_shrunk() -> None:
    """What a tenant has booked of the former room is not the others' loss, and it books no more of it."""
    spread = RetrySpread(1000)
    spread.per_s = 1000
    for _ in range(20 * 333):
        spread.due_after("flood", 1.25, NOW)

    _fire(spread, per_s=100, late_s=3)

    assert spread.per_s == 80
    assert {spread.due_after("globex", 1.25, NOW) for _ in range(20)} == {NOW + timedelta(seconds=1.25)}
    more = _seconds([spread.due_after("flood", 21.25, NOW) for _ in range(200)])
    assert max(more.values()) <= 80 / 3 + 2
