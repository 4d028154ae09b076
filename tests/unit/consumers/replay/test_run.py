"""A replay run that is cancelled."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from consumers.replay.run import Pacer, ReplayRun, replayed_state
from consumers.replay.source import SupersededIndex, SupersededPage
from consumers.retention.retained import RetainedRecord
from schemas.configuration import Replay, ReplayFilter
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_DEFERRALS,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_REPLAY,
    HEADER_REPLAY_FROM,
    HEADER_SECRET_WAITS,
)

pytestmark = pytest.mark.retry

ROW = Replay(filter=ReplayFilter(), by="test", started_at=datetime.now(UTC), until_sequence=9)


class Endless:
    """A source whose search never ends."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()

    async def find_pages(self, *, after: int, until: int) -> AsyncIterator[SupersededPage]:
        """Wait forever."""
        self.has_begun.set()
        while after < until:
            await asyncio.Event().wait()
            yield SupersededPage([], SupersededIndex([]))

    def read_page(self, page: SupersededPage) -> AsyncIterator[RetainedRecord]:
        """Return nothing."""
        raise AssertionError(page)

    async def count(self, *, after: int = 0, until: int | None = None) -> int:
        """Return nothing."""
        raise AssertionError(after, until)


class UnusedPublisher:
    """A publisher that must not be called."""

    def exceeds_share(self, _tenant: str, _count: int) -> bool:
        """Return False: nothing goes to the overflow."""
        return False

    def send(self, publication: object, on_stored: object) -> None:
        """Fail, because no request is expected."""
        raise AssertionError(publication, on_stored)


async def test_a_cancelled_run_stops_during_a_long_search() -> None:
    """Cancelling a replay does not wait for its search of later attempts."""
    source = Endless()
    run = ReplayRun(source=source, publisher=UnusedPublisher(), replay="rpl-1", row=ROW, pacer=Pacer(None))
    going = asyncio.create_task(run.run())
    await source.has_begun.wait()

    run.stop()

    assert await asyncio.wait_for(going, 20) is False
    assert run.row == ROW


def test_a_request_begins_its_schedule_and_its_waits_afresh() -> None:
    """The next attempt of a kept delivery is the first of the replay, and has waited for nothing yet."""
    headers = {
        HEADER_ATTEMPT: "8",
        HEADER_REPLAY: "rpl-0",
        HEADER_REPLAY_FROM: "5",
        HEADER_SECRET_WAITS: "3",
        HEADER_DEFERRALS: "2",
        HEADER_FIRST_ATTEMPT_AT: "2026-11-23T20:00:00+00:00",
    }

    progress = replayed_state(headers, "rpl-1")

    assert (progress.attempt, progress.replay, progress.replay_from, progress.attempts_in_schedule) == (
        9,
        "rpl-1",
        9,
        1,
    )
    assert (progress.secret_waits, progress.deferrals) == (0, 0)
    assert progress.first_attempt_at == datetime(2026, 11, 23, 20, tzinfo=UTC)
    assert progress.msg_id("acme.orders.dlv_1") == "acme.orders.dlv_1.rrpl-1.9"
