"""Periodic loops."""

import asyncio

import pytest
import structlog

from messaging import periodic
from messaging.client.errors import ServerUnavailable
from messaging.periodic import pause, run_every


async def test_a_pause_ends_early_when_an_event_is_set() -> None:
    """The result says whether an event ended the pause."""
    stop, other = asyncio.Event(), asyncio.Event()
    assert not await pause(0.001, stop, other)
    other.set()
    async with asyncio.timeout(5):
        assert await pause(60, stop, other)


async def test_work_repeats_until_stop_is_set() -> None:
    """A failed round is logged under the given name, and the next round follows."""
    stop, rounds = asyncio.Event(), 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise ServerUnavailable("no answer")
        if rounds == 3:
            stop.set()

    with structlog.testing.capture_logs() as logs:
        await run_every(0.001, work, stop, failure_event="work.failed", jitter=0.5)
    assert rounds == 3
    assert [(entry["event"], entry["error"]) for entry in logs] == [("work.failed", "no answer")]


async def test_a_wake_event_starts_the_next_round_early() -> None:
    """The wake event is consumed by the round that it starts."""
    stop, wake, rounds = asyncio.Event(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            assert not wake.is_set()
            stop.set()

    async with asyncio.timeout(5):
        running = asyncio.create_task(run_every(60, work, stop, failure_event="work.failed", wake=wake))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wake.set()
        await running


async def test_a_wake_event_does_not_hurry_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that fails at once and wakes itself has one round a pause, not one after another."""
    monkeypatch.setattr(periodic, "MIN_PAUSE_AFTER_FAILURE_S", 60.0)
    stop, wake, rounds = asyncio.Event(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        wake.set()
        raise ServerUnavailable("no answer")

    running = asyncio.create_task(run_every(60, work, stop, failure_event="work.failed", wake=wake))
    for _ in range(20):
        await asyncio.sleep(0)
    stop.set()
    await running
    assert rounds == 1
