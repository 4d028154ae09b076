"""The worker's view of the poison guard (`consumers.isolation`): no message can end one consumer after the other."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from consumers.worker.disposition import HandlerResult
from messaging.client.errors import JetStreamError
from messaging.message import Message

OUTAGES: Final = (JetStreamError, OSError)
"""Errors of NATS, of the network or of the machine: no fault of the message that was being handled. It comes again."""
OnIsolated = Callable[[HandlerResult], None]
"""Function of the result of an isolated handler, or of `IsolationEnded`."""


def describe_outage(error: Exception) -> str:
    """Return the text of an error of NATS, and of a system error only its type."""
    return str(error) if isinstance(error, JetStreamError) else type(error).__name__


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
