"""Waiting in tests."""

import asyncio

import pytest

from tests.support.waiting import until


async def test_returns_what_became_true() -> None:
    """The condition is polled until it is true, and its value is returned."""
    seen: list[int] = []
    asyncio.get_running_loop().call_later(0.01, seen.append, 7)

    found = await until(lambda: seen)

    assert found == [7]


async def test_awaits_conditions() -> None:
    """An async condition is awaited each time."""
    answers = iter([0, 0, 5])

    async def condition() -> int:
        return next(answers)

    assert await until(condition) == 5


async def test_gives_up_at_the_deadline() -> None:
    """A condition that stays false or never returns fails at the deadline."""
    with pytest.raises(AssertionError, match="last: 0"):
        await until(lambda: 0, deadline_s=0.02)
    with pytest.raises(AssertionError, match=r"not within 0\.08 s"):
        await until(asyncio.Event().wait, deadline_s=0.02)


async def test_raises_errors_of_the_condition() -> None:
    """An exception of the condition is raised, also a TimeoutError."""

    async def condition() -> bool:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await until(condition)
