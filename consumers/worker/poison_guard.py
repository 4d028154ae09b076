"""The worker's view of the poison guard (`consumers.isolation`): no message can end one consumer after the other."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol

from consumers.worker.disposition import HandlerResult
from messaging.message import Message

OnIsolated = Callable[[HandlerResult], None]
"""Function of the result of an isolated handler, or of `IsolationEnded`."""


class IsolatedCrash(Exception):
    """An unforeseen error of the handler in isolation. `name` is its type."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class IsolationEnded(Exception):
    """The end of an isolation without a result: the message is returned to its stream."""


class PoisonGuard(Protocol):
    """A journal of what is being handled, and the isolation of messages that are suspect."""

    begin: Callable[[str], int]
    """Notes that the message of an identity is being handled, and returns a slot for `end`."""
    end: Callable[[int], None]
    isolated: AbstractSet[str]
    """Empty as long as nothing is suspect: then `is_suspect` need not be asked."""
    accused: AbstractSet[str]
    """Identities of messages that were being handled when a process died: they must keep their identity."""
    is_suspect: Callable[[Message], bool]

    def is_alone(self, message: Message) -> bool:
        """Return whether a suspect is handled by `isolate`, and not by `handle`."""
        ...

    async def handle(self, message: Message) -> HandlerResult:
        """Handle a suspect in isolation, beside others, and return its result, or `IsolationEnded`."""
        ...

    def isolate(self, message: Message, on_result: OnIsolated) -> None:
        """Handle a suspect alone when its turn comes, and call `on_result` once: at once when too many wait."""
        ...

    def return_waiting(self) -> None:
        """Return what waits for its turn to its stream."""
        ...
