"""Loops that repeat their work at an interval until they are stopped."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from messaging.client.errors import JetStreamError

MIN_PAUSE_AFTER_FAILURE_S: Final = 1.0
"""`wake` cannot make failing rounds follow each other faster."""

_log = structlog.get_logger(__name__)


async def pause(delay_s: float, *events: asyncio.Event) -> bool:
    """Wait `delay_s` seconds, or until one of `events` is set.

    Returns:
        True if one of `events` is set.
    """
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    return any(event.is_set() for event in events)


async def run_every(
    interval_s: float,
    work: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    *,
    failure_event: str,
    wake: asyncio.Event | None = None,
    jitter: float = 0.0,
) -> None:
    """Run `work` at once, and then every `interval_s` seconds until `stop` is set.

    Args:
        failure_event: Name of the warning that is logged when `work` raises `JetStreamError`.
        wake: Starts the next round early.
        jitter: Share of the interval by which each pause varies at random.
    """
    events = (stop,) if wake is None else (stop, wake)
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        try:
            await work()
        except JetStreamError as error:
            _log.warning(failure_event, error=str(error))
            await pause(min(interval_s, MIN_PAUSE_AFTER_FAILURE_S), stop)
        await pause(interval_s * random.uniform(1 - jitter, 1 + jitter), *events)  # noqa: S311 - no secret
