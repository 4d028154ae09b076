"""Child processes of the bench, which read commands from stdin, write replies to stdout, and end with the parent."""

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
        """Return the CPU seconds of the process and its children."""
        return sum(map(cpu_s, self._family()))

    def memory_mb(self) -> float:
        """Return the resident megabytes of the process and its children."""
        return sum(process.memory_info().rss for process in self._family()) / 1e6

    def _family(self) -> list[psutil.Process]:
        return [self._usage, *self._usage.children(recursive=True)]

    async def wait(self, deadline_s: float) -> int:
        """Wait until the process ends by itself, and return its exit code. Raises `TimeoutError`."""
        return await asyncio.wait_for(self._process.wait(), deadline_s)

    def tell(self, line: bytes) -> None:
        """Write a line to stdin of the process."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")

    async def hear(self, word: str, deadline_s: float) -> str:
        """Wait for the next line, which must begin with `word`, and return its rest. Raises `BenchError`."""
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
        """Return the last lines of stderr."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  {self.name}: {line}" for line in lines)

    async def stop(self) -> int:
        """Terminate the process, or kill it after a deadline, and return its exit code."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        return await self.kill()

    async def kill(self) -> int:
        """Kill the process if it still runs, and return its exit code."""
        self._signal(signal.SIGKILL)
        return await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            if number == signal.SIGKILL:  # the process leads its own session, so its children end too
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

    The process is killed at the end. Its output goes to `log`, except for stdout when it `speaks`.
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
            start_new_session=True,  # this process handles Ctrl-C
            preexec_fn=_die_with_parent,
        )
    running = Child(name, process, log)
    try:
        yield running
    finally:
        await running.kill()


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process."""
    times = process.cpu_times()
    return times.user + times.system


def _die_with_parent() -> None:
    """Let Linux kill the child when its parent ends; runs in the child before it becomes the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
