"""`python -m tests.support.dying STEP COUNT`: a consumer that kills itself, as kill -9 does, the COUNTth time it gets to STEP.

Wherever a process may die, the next one must carry on; these are the gaps between two steps of the path.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from consumers import runtime
from consumers.sender import HttpSender
from oneprotect.__main__ import main
from oneprotect.jetstream.pull import Message

STEPS = ("before_send", "after_send", "after_result", "before_ack")

Method = Callable[..., Awaitable[Any]]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str, count: int) -> None:
    """Make this process die at the `count`th passage of `step`."""
    left = [count]

    def passed() -> None:
        left[0] -= 1
        if left[0] == 0:
            _die()

    def before(method: Method) -> Method:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            passed()
            return await method(*arguments, **named)

        return wrapped

    def after(method: Method) -> Method:
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            result = await method(*arguments, **named)
            passed()
            return result

        return wrapped

    settling: Any = runtime._Settling  # pyright: ignore[reportPrivateUsage] - the gap is inside it
    match step:
        case "before_send":
            HttpSender.send = before(HttpSender.send)  # type: ignore[method-assign]
        case "after_send":
            HttpSender.send = after(HttpSender.send)  # type: ignore[method-assign]
        case "after_result":
            settling._on_stored = before(settling._on_stored)
        case _:
            Message.ack = before(Message.ack)  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["oneprotect", "consumer"]
    main()
