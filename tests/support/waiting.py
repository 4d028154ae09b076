"""Waiting for something to become true, with a deadline instead of a guessed sleep."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_LONGEST_PAUSE_S = 0.02


@overload
async def until(condition: Callable[[], Awaitable[T]], deadline_s: float = 5.0) -> T: ...


@overload
async def until(condition: Callable[[], T], deadline_s: float = 5.0) -> T: ...


async def until(condition: Callable[[], Any], deadline_s: float = 5.0) -> Any:
    """Call `condition` (plain or async) until it returns something true, and return that.

    Raises `AssertionError`, with the last thing it returned, when that takes longer than `deadline_s`. What
    `condition` raises is raised.
    """
    deadline = asyncio.timeout(deadline_s)
    last: Any = None
    pause_s = 0.0
    try:
        async with deadline:
            while not (last := await _answer(condition())):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2 or 0.001, _LONGEST_PAUSE_S)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise AssertionError(f"not within {deadline_s} s; last: {last!r}") from None
    return last


async def _answer(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer
