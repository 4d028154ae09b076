"""Readiness that does not flap."""

from telemetry.readiness import PATIENCE_S, ReadinessState


class Times:
    """A clock that is set, and work that is possible or not."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.works = True
        self.readiness = ReadinessState(clock=lambda: self.now_s)
        self.readiness.add_check("it does not work", lambda: self.works)


def test_a_process_is_not_ready_before_it_has_worked_once() -> None:
    """A process is starting until its first success, however long that lasts."""
    times = Times()
    times.works = False

    words = [times.readiness.status]
    times.now_s = 10 * PATIENCE_S
    words.append(times.readiness.status)
    times.works = True
    words.append(times.readiness.status)

    assert words == ["starting", "starting", "ready"]


def test_a_short_outage_keeps_the_process_ready() -> None:
    """Readiness ends only after an outage longer than the bound, and returns at once."""
    times = Times()
    assert times.readiness.check()
    times.works = False

    words: list[str] = []
    for now_s in (1.0, PATIENCE_S - 0.1, PATIENCE_S + 0.1):
        times.now_s = now_s
        words.append(times.readiness.status)
    times.works = True
    words.append(times.readiness.status)

    assert words == ["ready", "ready", "waiting", "ready"]


def test_a_draining_process_stays_ready() -> None:
    """A draining process still works and reports ready."""
    times = Times()
    times.readiness.drain()
    times.works = False
    times.now_s = 2 * PATIENCE_S

    assert times.readiness.status == "draining"
    assert times.readiness.check()
