"""Waiting for a condition to become true, with a deadline instead of a guessed sleep."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE = 4
"""Factor of every deadline, so that a test on a busy machine is slow instead of red."""

_LONGEST_PAUSE_S = 0.02


@overload
async def until(condition: Callable[[], Awaitable[T]], deadline_s: float = 10.0) -> T: ...


@overload
async def until(condition: Callable[[], T], deadline_s: float = 10.0) -> T: ...


async def until(condition: Callable[[], Any], deadline_s: float = 10.0) -> Any:
    """Call `condition` (plain or async) until it returns a true value, and return that value.

    Args:
        condition: The condition; an error that it raises ends the wait and is raised.
        deadline_s: Seconds that the condition needs at most on an idle machine; `PATIENCE` multiplies them.

    Raises:
        AssertionError: The condition stayed false; the text holds the last value.
    """
    limit_s = PATIENCE * deadline_s
    deadline = asyncio.timeout(limit_s)
    last: Any = None
    pause_s = 0.0
    try:
        async with deadline:
            while not (last := await _value(condition())):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2 or 0.001, _LONGEST_PAUSE_S)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise AssertionError(f"not within {limit_s:g} s; last: {last!r}") from None
    return last


async def _value(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer
