"""Things that end in any order, taken in the order in which they began."""

import collections
from typing import Generic, TypeVar

T = TypeVar("T")


class Place(Generic[T]):
    """Where a thing stands in the line."""

    __slots__ = ("has_ended", "thing")

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.has_ended = False


class InOrder(Generic[T]):
    """A line in which a thing is let out when it has ended and so has everything before it."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line: collections.deque[Place[T]] = collections.deque()

    def __len__(self) -> int:
        """How many are in the line, ended or not."""
        return len(self._line)

    def begin(self, thing: T) -> Place[T]:
        """Put `thing` at the end of the line."""
        place = Place(thing)
        self._line.append(place)
        return place

    def end(self, place: Place[T]) -> list[T]:
        """It has ended: those that leave the line by that, in their order."""
        place.has_ended = True
        out: list[T] = []
        while self._line and self._line[0].has_ended:
            out.append(self._line.popleft().thing)
        return out
