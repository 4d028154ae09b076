"""Coroutines that nearly always end without waiting, and then need no task."""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


def run_eagerly(coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Run a coroutine until it waits; a task in `tasks` runs the rest.

    Raises what the coroutine raises before it waits. Until then it has no current task.
    """
    try:
        waited_for = coroutine.send(None)
    except StopIteration:
        return
    task = asyncio.get_running_loop().create_task(_continue(coroutine, waited_for))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _continue(coroutine: Coroutine[Any, Any, None], waited_for: object) -> None:
    await _steps(coroutine, waited_for)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, None], waited_for: object) -> Generator[object, object, None]:
    while True:
        failure: BaseException | None = None
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001 - the coroutine handles it, cancellation above all
            failure = error
        try:
            waited_for = coroutine.send(None) if failure is None else coroutine.throw(failure)
        except StopIteration:
            return
