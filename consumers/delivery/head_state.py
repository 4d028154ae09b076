"""The state of the head of each ordered queue: which attempt comes next, and when.

The attempt log has it. What this consumer recorded last comes from memory, because a replica that answers may lag.
"""

import asyncio
from collections import OrderedDict
from datetime import datetime
from typing import Final

import msgspec

from consumers.model.request import RetryState
from messaging.message import Message
from schemas.codes import Outcome
from schemas.events import AttemptResult

MAX_NOTED: Final = 10_000
"""Heads whose state is kept. Another consumer may get a head, and never returns it."""


class HeadState(msgspec.Struct, frozen=True):
    """The next attempt on a head, not before `due`; if `is_settled`, the final result is recorded.

    `noted_at`: the loop's time at which this consumer recorded it, if it did.
    """

    retry_state: RetryState
    due: datetime | None = None
    is_settled: bool = False
    noted_at: float = 0.0


def head_state_from_results(retry_state: RetryState, results: list[AttemptResult]) -> HeadState:
    """Return the state of a delivery that arrived with `retry_state`, after its `results` in recorded order."""
    head = HeadState(retry_state)
    for result in results:
        if result.attempt < retry_state.attempt or result.replay != retry_state.replay:
            continue
        if result.outcome is Outcome.RETRY_SCHEDULED:
            head = HeadState(head.retry_state.after_result(result), result.next_attempt_at)
        elif result.outcome is not Outcome.SUPPRESSED:
            return HeadState(msgspec.structs.replace(head.retry_state, attempt=result.attempt), is_settled=True)
    return head


class HeadStateCache:
    """The states that this consumer recorded of heads since they were last delivered to it."""

    def __init__(self) -> None:
        self._noted: OrderedDict[str, tuple[str, HeadState]] = OrderedDict()

    def note(self, tenant: str, destination: str, message: Message, state: HeadState) -> None:
        """Keep the state of the head `message`, which was attempted and is to be attempted again."""
        noted = msgspec.structs.replace(state, noted_at=asyncio.get_running_loop().time())
        key = f"{tenant}.{destination}"
        self._noted[key] = message.identity, noted
        self._noted.move_to_end(key)
        if len(self._noted) > MAX_NOTED:
            self._noted.popitem(last=False)

    def take(self, key: str, message: Message) -> HeadState | None:
        """Remove and return the state of `message`, the head of the ordered queue `<tenant>.<destination>`."""
        identity, state = self._noted.pop(key, ("", None))
        return state if identity == message.identity else None
