"""The route of a single request to an ordered destination: straight into its queue, if it overtakes nothing there.

Requests that wait in the work stream or the overflow were accepted before, and the holder of the queue moves them. A
request that would overtake one of them follows it. Only the leaders of both streams know: a process does not see what
others accept. `docs/explanation/ordering.md` has the proof.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from messaging.client.errors import JetStreamError
from schemas import subjects

WAKE_AFTER_S: Final = 5.0
"""A queue may have no holder when this process has published nothing to it for this long."""
MAX_AWAKE: Final = 16_384
"""Queues that are known to be awake."""
_UNKNOWN: Final = -1


class Route(Enum):
    """Where a request goes."""

    QUEUE = "queue"
    WORK = "work"
    OVERFLOW = "overflow"


class SequenceReader(Protocol):
    """A reader of the newest sequence of a subject, such as `JetStreamPublisher`."""

    async def last_sequence(self, subject: str) -> int | None:
        """Return the sequence; 0 without a message, None while one is on its way. Raises `JetStreamError`."""
        ...


class OrderedRoute:
    """The routes that one process chooses."""

    def __init__(self, reader: SequenceReader, signal: Callable[[str], None]) -> None:
        """`signal` sends an empty message on a subject, without an acknowledgement."""
        self._reader = reader
        self._signal = signal
        self._choosing: dict[str, asyncio.Task[Route]] = {}
        self._awake: OrderedDict[str, float] = OrderedDict()
        """Time of the last request that went to a queue."""

    async def choose(self, tenant: str, destination: str) -> Route:
        """Return the route of a request that was made before this call."""
        key = f"{tenant}.{destination}"
        earlier = self._choosing.get(key)
        if earlier is not None:  # began before this request, so a request accepted in between is unknown to it
            await asyncio.wait({earlier})
        choosing = self._choosing.get(key)
        if choosing is None:
            choosing = self._choosing[key] = asyncio.create_task(self._choose(tenant, destination))
            choosing.add_done_callback(lambda _: self._choosing.pop(key))
        return await asyncio.shield(choosing)

    async def _choose(self, tenant: str, destination: str) -> Route:
        """Ask the leaders of both streams. In the work stream the order is kept as well, so it is the way out."""
        places = subjects.overflow(tenant, destination), subjects.requested(tenant, destination)
        overflow, work = await asyncio.gather(*map(self._newest, places))
        if overflow == work == 0:
            return Route.QUEUE
        return Route.WORK if overflow in (0, _UNKNOWN) else Route.OVERFLOW

    async def _newest(self, subject: str) -> int | None:
        try:
            return await self._reader.last_sequence(subject)
        except JetStreamError:
            return _UNKNOWN

    def on_queued(self, tenant: str, destination: str) -> None:
        """Wake the queue that a request has just been stored in, if it may have no holder."""
        key, now = f"{tenant}.{destination}", time.monotonic()
        last = self._awake.pop(key, -WAKE_AFTER_S)
        self._awake[key] = now
        if len(self._awake) > MAX_AWAKE:
            self._awake.popitem(last=False)
        if now - last >= WAKE_AFTER_S:
            with contextlib.suppress(JetStreamError):  # consumers look for queues without a holder every second
                self._signal(subjects.line(tenant, destination, "wake"))
