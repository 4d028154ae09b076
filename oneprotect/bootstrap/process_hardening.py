"""Keeps the memory of this process, and so the keys in it, out of core dumps and other processes' reach."""

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def harden_process() -> bool:
    """Forbid core dumps and, on Linux, attaching to this process without privileges. Best effort.

    Returns whether all of it took hold. Child processes inherit the first, and set the second again when they start
    another program.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return False
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
