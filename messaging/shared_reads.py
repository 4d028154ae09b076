"""Reads that all callers share who ask meanwhile. A read ends by itself, and not with a caller that leaves."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SharedReads:
    """The reads in progress, by name."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    def begin(self, name: str, read: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the task that reads, after starting one if there is none. Callers shield it."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(read(), name=f"read {name}")
            task.add_done_callback(lambda ended: self._on_end(name, ended))
        return task

    def _on_end(self, name: str, ended: asyncio.Task[Any]) -> None:
        del self._running[name]
        if not ended.cancelled():
            ended.exception()  # perhaps every caller has left
