"""Keeps several processes of one command running, and ends them together.

Each is as stateless as it would be alone: whatever one held when it died is handed out again by the server. One that
ends by itself is started again, at once at first and then ever later; on a stop all are told, and given the time that
they need to drain.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from messaging.periodic import pause
from oneprotect.supervisor.metrics_merge import final_counters, merged
from telemetry.metrics import definitions
from telemetry.metrics.child_reports import ChildReport, read_reports
from telemetry.metrics.registry import MetricSnapshot

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
"""A process that has run for so long was not failing at its start: its next pause is the first again."""
MERCY_S: Final = 5.0
"""How long beyond its own deadline a draining process is waited for."""

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
_log = structlog.get_logger(__name__)


class Supervisor:
    """Runs `command`, with the number of a file descriptor added to it, `count` times.

    `drain_timeout_s`: what each of them may take to stop.
    """

    def __init__(self, command: list[str], environ: dict[str, str], *, count: int, drain_timeout_s: float) -> None:
        self._command = command
        self._environ = environ
        self._count = count
        self._drain_timeout_s = drain_timeout_s
        self._reports: dict[int, ChildReport] = {}
        self._past = MetricSnapshot(values={}, latencies={})
        self._running = 0
        self._starts = Counter[int]()

    async def run(self, stop: asyncio.Event) -> bool:
        """Keep all of them running until `stop`, then end them. Returns whether all ended well."""
        keeping = [asyncio.create_task(self._keep(number, stop), name=f"process {number}") for number in self._numbers]
        return all(await asyncio.gather(*keeping))

    def is_working(self) -> bool:
        """Whether one of them can do its work."""
        return any(report.word == "ready" for report in self._reports.values())

    def snapshot(self) -> MetricSnapshot:
        """The figures of all, those that have ended included, and how many there are."""
        reports = (report.snapshot for report in self._reports.values())
        return merged([self._own(), self._past, *reports])

    def _own(self) -> MetricSnapshot:
        again = self._starts.total() - len(self._starts)
        own = {
            definitions.RESTARTS: again,
            definitions.SUPERVISED: self._running,
            definitions.SUPERVISED_WANTED: self._count,
        }
        return MetricSnapshot(values={(metric.name, ()): value for metric, value in own.items()}, latencies={})

    @property
    def _numbers(self) -> Iterator[int]:
        yield from range(1, self._count + 1)

    async def _keep(self, number: int, stop: asyncio.Event) -> bool:
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            began = loop.time()
            code = await self._once(number, stop)
            if stop.is_set():
                return code in (0, -signal.SIGTERM)  # the latter: it was only starting, and had nothing in hand
            if loop.time() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            _log.error("process.ended", process=number, code=code, next_try_s=pause_s)
            if await pause(pause_s, stop):
                return True  # there was none to end
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _once(self, number: int, stop: asyncio.Event) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                env=self._environ,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._running += 1
        self._starts[number] += 1
        _log.info("process.started", process=number, pid=process.pid)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        reading = asyncio.create_task(read_reports(reader, lambda report: self._reports.__setitem__(number, report)))
        ended, stopping = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(process)
            await asyncio.wait({reading}, timeout=1)
            return await ended
        finally:
            self._running -= 1
            stopping.cancel()
            reading.cancel()
            writer.close()
            if process.returncode is None:
                process.kill()
            if (report := self._reports.pop(number, None)) is not None:
                self._past = merged([self._past, final_counters(report.snapshot)])

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._drain_timeout_s + MERCY_S)
            return
        _log.error("process.killed", pid=process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def available_cores() -> int:
    """How many cores this process may use: those that it may run on, and no more than its cgroup has time for."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))  # `max` is no number: no limit
    return cores
