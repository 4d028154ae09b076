"""Requests on their way to the server: many at once, completed in their order.

The server stores requests in any order. A request counts as done when every request before it is done as well, so a
cursor that moves with each done step never passes one that is not stored.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from messaging.client.errors import JetStreamError
from messaging.delivery_requests import DeliveryRequest, OverflowingPublisher, RequestPublisher
from messaging.publication import PublishAck
from schemas import subjects

WINDOW_SIZE: Final = 256
AT_ONCE: Final = 100
"""Requests for the work stream. The others go to the overflow, so a long replay takes no room of live deliveries."""

T = TypeVar("T")


class QueuedItem(Generic[T]):
    """An item of a `CompletionQueue`."""

    __slots__ = ("is_complete", "item")

    def __init__(self, item: T) -> None:
        self.item = item
        self.is_complete = False


class CompletionQueue(Generic[T]):
    """A queue that an item leaves when the item and every item before it are complete."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: collections.deque[QueuedItem[T]] = collections.deque()

    def __len__(self) -> int:
        """Return the number of items in the queue, complete or not."""
        return len(self._items)

    def add(self, item: T) -> QueuedItem[T]:
        """Append `item`."""
        queued = QueuedItem(item)
        self._items.append(queued)
        return queued

    def complete(self, queued: QueuedItem[T]) -> list[T]:
        """Mark an item as complete. Returns the items that leave the queue by that, in their order."""
        queued.is_complete = True
        out: list[T] = []
        while self._items and self._items[0].is_complete:
            out.append(self._items.popleft().item)
        return out


class ReplayStep(msgspec.Struct, frozen=True, gc=False):
    """A retained delivery that was requested again, or skipped.

    `is_last_in_batch`: no other delivery of the replay has this stream sequence, so the cursor may move to it.
    """

    sequence: int
    replayed: bool
    is_last_in_batch: bool = True


class PublishWindow:
    """Steps in progress: at most `size`. `on_done` is called with each one, in order, when it is done.

    The first request that can't be stored ends the window: no step from there on is done.
    """

    def __init__(
        self, publisher: RequestPublisher, on_done: Callable[[ReplayStep], None], *, size: int = WINDOW_SIZE
    ) -> None:
        self._publisher = publisher
        self._at_once = OverflowingPublisher(publisher)
        self._requests = 0
        self._on_done = on_done
        self._size = size
        self._steps: CompletionQueue[ReplayStep] = CompletionQueue()
        self._in_flight = 0
        self._changed = asyncio.Event()
        self._error: JetStreamError | None = None

    async def submit(self, step: ReplayStep, request: DeliveryRequest | None) -> None:
        """Begin `step` when there is room. Without a `request` the step is done as soon as those before it are.

        Raises `JetStreamError` when an earlier request could not be stored.
        """
        while len(self._steps) >= self._size and not self._error:
            await self._wait_for_change()
        if self._error:
            raise self._error
        queued = self._steps.add(step)
        if request is None:
            self._complete(queued)
            return

        def on_stored(result: PublishAck | JetStreamError) -> None:
            self._in_flight -= 1
            if isinstance(result, PublishAck):
                self._complete(queued)
            else:
                self._error = self._error or result
                self._changed.set()

        self._in_flight += 1
        self._requests += 1
        if self._requests <= AT_ONCE:
            self._at_once.send(request.on(subjects.requested), on_stored)
        else:
            self._publisher.send(request.on(subjects.overflow), on_stored)

    async def drain(self) -> None:
        """Wait until every request is stored or refused. Raises `JetStreamError` when one is not stored."""
        while self._in_flight:
            await self._wait_for_change()
        if self._error:
            raise self._error

    def _complete(self, queued: QueuedItem[ReplayStep]) -> None:
        for step in self._steps.complete(queued):
            self._on_done(step)
        self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
