"""Processes as in a pod: without privileges, and with a chosen environment."""

import asyncio
import os
import sys
from typing import Final

import psutil

_BARE: Final = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


async def bare(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """`python ARGUMENTS` without a single capability, as with `drop: [ALL]`; its output is thrown away."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _BARE,
        *arguments,
        env=inherited | environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def consumer_pid() -> int:
    """The process id of the one consumer that this test runs."""
    children = psutil.Process().children()
    (found,) = [child.pid for child in children if "consumer" in child.cmdline()]
    return found
