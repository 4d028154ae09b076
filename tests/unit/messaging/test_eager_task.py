"""Coroutines that nearly always end without waiting."""

import asyncio

import pytest

from messaging.client.eager_task import run_eagerly


async def test_a_coroutine_that_does_not_wait_ends_at_once() -> None:
    """No task is made for it."""
    done: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def quick() -> None:
        done.append("done")

    run_eagerly(quick(), tasks)

    assert (done, tasks) == (["done"], set())


async def test_a_coroutine_that_waits_continues_in_a_task() -> None:
    """The coroutine gets each awaited result, in a task that is referenced until it ends."""
    steps: list[str] = []
    tasks: set[asyncio.Task[None]] = set()
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def slow() -> None:
        steps.append("begun")
        steps.append(await gate)
        await asyncio.sleep(0)
        assert asyncio.current_task() in tasks
        steps.append("done")

    run_eagerly(slow(), tasks)
    assert (steps, len(tasks)) == (["begun"], 1)
    gate.set_result("opened")
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)

    assert (steps, tasks) == (["begun", "opened", "done"], set())


async def test_an_exception_is_raised_where_it_happens() -> None:
    """Before any waiting it is raised to the caller, and after that it is the task's."""
    tasks: set[asyncio.Task[None]] = set()
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def failing() -> None:
        raise LookupError

    async def failed() -> None:
        await gate

    with pytest.raises(LookupError):
        run_eagerly(failing(), tasks)
    run_eagerly(failed(), tasks)
    (task,) = tasks
    gate.set_exception(KeyError())
    with pytest.raises(KeyError):
        await task

    assert tasks <= {task}


async def test_cancelling_reaches_the_coroutine() -> None:
    """Who is cancelled while waiting can clean up."""
    cleaned: list[bool] = []
    tasks: set[asyncio.Task[None]] = set()

    async def waiting() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    run_eagerly(waiting(), tasks)
    (task,) = tasks
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cleaned == [True]
