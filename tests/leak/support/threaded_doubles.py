"""Doubles that run in their own thread, so that the search ignores their logs and errors."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, TypeVar

from tests.leak.support.listening import OTHERS

T = TypeVar("T")

_Started = tuple[T, Callable[[], object]]


@contextlib.asynccontextmanager
async def run_in_thread(make: Callable[[], contextlib.AbstractAsyncContextManager[T]]) -> AsyncGenerator[T]:
    """Run the context manager of `make` in a thread with its own event loop until the block ends."""
    started: queue.SimpleQueue[_Started[T]] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: asyncio.run(_keep(make, started)), name=OTHERS)
    thread.start()
    entered, stop = await asyncio.to_thread(started.get, timeout=10)
    try:
        yield entered
    finally:
        stop()
        await asyncio.to_thread(thread.join)


async def _keep(
    make: Callable[[], contextlib.AbstractAsyncContextManager[T]], started: "queue.SimpleQueue[_Started[T]]"
) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(_ignore)
    async with make() as entered:
        started.put((entered, partial(loop.call_soon_threadsafe, stopping.set)))
        await stopping.wait()


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Ignore errors of a double."""
