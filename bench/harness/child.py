"""A process of the bench: told by lines on its stdin, heard by lines from its stdout, and gone when we are."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from bench.harness.errors import BenchError

STOP_TIMEOUT_S: Final = 10.0

_ROOT: Final = Path(__file__).resolve().parents[2]
_INHERITED: Final = ("PATH", "HOME", "LANG")
_LOG_TAIL_LINES: Final = 12
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """A running `python -m <module>`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._usage = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Seconds of CPU time that it and the processes it has started have used so far."""
        return sum(map(cpu_s, self._family()))

    def memory_mb(self) -> float:
        """Megabytes that it and the processes it has started hold in memory."""
        return sum(process.memory_info().rss for process in self._family()) / 1e6

    def _family(self) -> list[psutil.Process]:
        return [self._usage, *self._usage.children(recursive=True)]

    async def wait(self, deadline_s: float) -> int:
        """Wait until it has ended by itself, and return its exit code. Raises `TimeoutError`."""
        return await asyncio.wait_for(self._process.wait(), deadline_s)

    def tell(self, line: bytes) -> None:
        """Write a line to its stdin."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")

    async def hear(self, word: str, deadline_s: float) -> str:
        """Wait for its next line, which must begin with `word`, and return the rest. Raises `BenchError`."""
        try:
            async with asyncio.timeout(deadline_s):
                line = await self._process.stdout.readline() if self._process.stdout else b""
        except TimeoutError:
            line = f"nothing within {deadline_s:.0f} s".encode()
        said, _, rest = (text := line.decode().strip()).partition(" ")
        if said != word:
            raise BenchError(f"the {self.name} said {text or 'nothing and ended'}, not `{word}`{self.log_tail()}")
        return rest

    def log_tail(self) -> str:
        """The end of what it wrote to stderr, on lines of its own."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  {self.name}: {line}" for line in lines)

    async def stop(self) -> int:
        """Ask it to stop, wait until it has, and return its exit code; killed when that takes too long."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        return await self.kill()

    async def kill(self) -> int:
        """End it if it still runs, and return its exit code."""
        self._signal(signal.SIGKILL)
        return await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            if number == signal.SIGKILL:  # it leads a session of its own: whatever it has started goes with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)


@contextlib.asynccontextmanager
async def child(
    name: str,
    *arguments: str,
    log: Path,
    speaks: bool = False,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m"),
) -> AsyncGenerator[Child]:
    """Start `python -m <arguments>`, or another `program`, with little but `environ` in its environment.

    It is killed on leaving. What it writes goes to `log`, except that it is listened to on stdout when it `speaks`.
    """
    inherited = {variable: os.environ[variable] for variable in _INHERITED if variable in os.environ}
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*program, *arguments),
            cwd=_ROOT,
            env=inherited | dict(environ or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if speaks else stderr,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is ours to handle
            preexec_fn=_die_with_parent,
        )
    running = Child(name, process, log)
    try:
        yield running
    finally:
        await running.kill()


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU time that a process has used so far."""
    times = process.cpu_times()
    return times.user + times.system


def _die_with_parent() -> None:
    """In the child, before it becomes the program: ask Linux to kill it when we are gone, however we went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
