"""Protection of the keys in this process's memory from core dumps and other processes."""

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def harden_process() -> bool:
    """Disable core dumps and, on Linux, unprivileged debuggers. Best effort: returns whether both succeeded.

    Child processes inherit the first. The second must be set again by each program that a child starts.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return False
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
