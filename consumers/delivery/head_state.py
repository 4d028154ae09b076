"""Where the heads of lines stand: which attempt comes next, and when.

The results on record say it. What this very consumer has recorded last it need not read back, and must not: a replica
that answers may lag behind.
"""

import asyncio
from datetime import datetime

import msgspec

from consumers.model.request import RetryState
from messaging.message import Message
from schemas.codes import Outcome
from schemas.events import AttemptResult


class HeadState(msgspec.Struct, frozen=True):
    """The attempt that comes next, not before `due`; with `is_settled`, its result is on record already.

    `noted_at`: the loop's time at which this consumer noted it, if it did.
    """

    progress: RetryState
    due: datetime | None = None
    is_settled: bool = False
    noted_at: float = 0.0


def head_state_from_results(progress: RetryState, results: list[AttemptResult]) -> HeadState:
    """Where a delivery stands that came with `progress`, after `results`, in the order in which they were recorded."""
    standing = HeadState(progress)
    for result in results:
        if result.attempt < progress.attempt or result.replay != progress.replay:
            continue
        if result.outcome is Outcome.RETRY_SCHEDULED:
            standing = HeadState(standing.progress.after_result(result), result.next_attempt_at)
        elif result.outcome is not Outcome.SUPPRESSED:
            return HeadState(msgspec.structs.replace(standing.progress, attempt=result.attempt), is_settled=True)
    return standing


class HeadStateCache:
    """What this consumer has recorded of each line's head since it was handed out last."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[str, HeadState]] = {}

    def note(self, tenant: str, destination: str, message: Message, standing: HeadState) -> None:
        """The head `message` has been attempted, and is to be attempted again."""
        noted = msgspec.structs.replace(standing, noted_at=asyncio.get_running_loop().time())
        self._noted[f"{tenant}.{destination}"] = message.identity, noted

    def take(self, key: str, message: Message) -> HeadState | None:
        """What was noted of `message`, the head of the line `<tenant>.<destination>`."""
        identity, standing = self._noted.pop(key, ("", None))
        return standing if identity == message.identity else None
