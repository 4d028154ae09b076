"""Requests on their way to the server, many at a time, accounted for one after the other.

A request is stored in whatever order the server pleases; what it was asked for counts as done only when everything
before it is done, too. So whoever keeps a cursor can move it to each step that is told, and never passes over one.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from messaging.client.errors import SUBJECT_FULL, JetStreamError, RejectedByServer
from messaging.delivery_requests import DeliveryRequest
from messaging.publisher import MessagePublisher, Publication, PublishAck
from schemas import subjects

SIZE: Final = 256

T = TypeVar("T")


class QueuedItem(Generic[T]):
    """Where a thing stands in the line."""

    __slots__ = ("has_ended", "thing")

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.has_ended = False


class CompletionQueue(Generic[T]):
    """A line in which a thing is let out when it has ended and so has everything before it."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line: collections.deque[QueuedItem[T]] = collections.deque()

    def __len__(self) -> int:
        """How many are in the line, ended or not."""
        return len(self._line)

    def add(self, thing: T) -> QueuedItem[T]:
        """Put `thing` at the end of the line."""
        place = QueuedItem(thing)
        self._line.append(place)
        return place

    def complete(self, place: QueuedItem[T]) -> list[T]:
        """It has ended: those that leave the line by that, in their order."""
        place.has_ended = True
        out: list[T] = []
        while self._line and self._line[0].has_ended:
            out.append(self._line.popleft().thing)
        return out


class ReplayStep(msgspec.Struct, frozen=True, gc=False):
    """A kept delivery that is done with: requested again, or left alone.

    `ends`: nothing else that is kept under its stream sequence belongs to the replay, so the cursor may stand there.
    """

    sequence: int
    replayed: bool
    is_last_in_batch: bool = True


class PublishWindow:
    """Steps that have begun: at most `size`. `on_done` is called with each one, in order, when it is done.

    The first request that can't be stored ends it: no step from there on is done, as the cursor must not pass it.
    """

    def __init__(self, publisher: MessagePublisher, on_done: Callable[[ReplayStep], None], *, size: int = SIZE) -> None:
        self._publisher = publisher
        self._on_done = on_done
        self._size = size
        self._line: CompletionQueue[ReplayStep] = CompletionQueue()
        self._in_flight = 0
        self._moved = asyncio.Event()
        self._error: JetStreamError | None = None

    async def submit(self, step: ReplayStep, asking: DeliveryRequest | None) -> None:
        """Begin `step` as soon as there is room; with nothing to ask for, it is done when those before it are.

        Raises `JetStreamError` when a request before it could not be stored.
        """
        while len(self._line) >= self._size and not self._error:
            await self._next_move()
        if self._error:
            raise self._error
        place = self._line.add(step)
        if asking is None:
            self._end(place)
        else:
            self._in_flight += 1
            self._ask(place, asking, subjects.requested(asking.tenant, asking.destination))

    async def drain(self) -> None:
        """Wait until it is known of every request whether it is stored. Raises `JetStreamError` when one is not."""
        while self._in_flight:
            await self._next_move()
        if self._error:
            raise self._error

    def _ask(self, place: QueuedItem[ReplayStep], asking: DeliveryRequest, subject: str) -> None:
        def on_stored(result: PublishAck | JetStreamError) -> None:
            overflow = subjects.overflow(asking.tenant, asking.destination)
            if isinstance(result, PublishAck):
                self._in_flight -= 1
                self._end(place)
            elif isinstance(result, RejectedByServer) and result.err_code == SUBJECT_FULL and subject != overflow:
                self._ask(place, asking, overflow)
            else:
                self._in_flight -= 1
                self._error = self._error or result
                self._moved.set()

        self._publisher.send(Publication(subject, asking.document, asking.headers), on_stored)

    def _end(self, place: QueuedItem[ReplayStep]) -> None:
        for step in self._line.complete(place):
            self._on_done(step)
        self._moved.set()

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()
