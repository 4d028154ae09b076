"""Terms: until when a message or a lease is certainly this process's own.

A process may be paused or cut off from the server, and notices it late or not at all. Meanwhile the server gives its
messages to another process. So a term counts from a moment before the server can have given something to this process,
and never from its receipt: what waited in the socket during a pause looks fresh. After the term, nothing is started.
"""

import functools
import time
from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import Struct

MAX_MARGIN_S: Final = 2.0

clock: Final[Callable[[], float]] = functools.partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
"""Seconds on a steady clock that also runs while the machine is suspended.

The time of the event loop does not serve: uvloop reads it once in each iteration, and a pause may be in the middle.
"""


class Term(Struct, gc=False):
    """A term. `until` is a time of `clock`; the owner of a lease's term changes it with each renewal."""

    until: float


UNLIMITED: Final = Term(inf)


class TermExpired(Exception):
    """The end of handling a message that may be another process's by now. The server delivers it again."""


def held_s(ack_wait_s: float) -> float:
    """Return for how long a message is certainly held after the server began to wait for its acknowledgement.

    The margin is for what passes between a look at the clock and the effect, and for the clocks of several servers.
    """
    return ack_wait_s - min(MAX_MARGIN_S, ack_wait_s / 10)
