"""`python -m tests.support.crash STEP COUNT`: a consumer that kills itself (SIGKILL) at STEP for the COUNTth time.

The steps are the gaps between two actions of the delivery path, where a process may die.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from consumers.http_client.client import HttpWebhookSender
from consumers.worker.settling import InFlightMessage
from messaging.message import Message
from oneprotect.__main__ import main

STEPS = ("before_send", "after_send", "after_result", "before_ack")


class Fuse:
    """A trigger that kills this process at its `count`th use."""

    def __init__(self, count: int) -> None:
        self._left = count

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the plain function `method` with the fuse before it."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._pass()
            return method(*arguments, **named)

        return wrapped

    def after_reply(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return `method` with the fuse between its reply and the caller that awaits the reply."""

        def wrapped(*arguments: Any, on_reply: Callable[[Any], None], **named: Any) -> Any:
            def passing(reply: Any) -> None:
                self._pass()
                on_reply(reply)

            return method(*arguments, on_reply=passing, **named)

        return wrapped


def arm(step: str, fuse: Fuse) -> None:
    """Install `fuse` at `step`."""
    sender: Any = HttpWebhookSender
    message: Any = Message
    work: Any = InFlightMessage
    match step:
        case "before_send":
            sender.start = fuse.before_call(sender.start)
        case "after_send":
            sender.start = fuse.after_reply(sender.start)
        case "after_result":
            work._on_stored = fuse.before_call(work._on_stored)
        case _:
            message.ack = fuse.before_call(message.ack)


if __name__ == "__main__":
    arm(sys.argv[1], Fuse(int(sys.argv[2])))
    sys.argv = ["oneprotect", "consumer"]
    main()
