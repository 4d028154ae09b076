"""A runner of commands at a terminal: stdin and stderr are the terminal, stdout is a pipe."""

import asyncio
import contextlib
import os
import pty
import sys

from tests.support.commandline import Ran


async def at_terminal(environ: dict[str, str], *arguments: str, types: bytes = b"") -> Ran:
    """Run `oneprotect ARGUMENTS`, and type `types` at its terminal."""
    ours, theirs = pty.openpty()
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oneprotect", *arguments),
            env=inherited | environ | {"ONEPROTECT_LOG_LEVEL": "info", "TERM": "xterm"},
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the command has closed the terminal
            while chunk := os.read(ours, 65536):
                shown.extend(chunk)

    reading = asyncio.create_task(asyncio.to_thread(read))
    os.write(ours, types)
    out, _ = await process.communicate()
    await reading
    os.close(ours)
    return Ran(process.returncode or 0, out.decode(), shown.decode())
