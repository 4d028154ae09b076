"""Supervisor of several processes of one command.

The processes are stateless: the server redelivers the messages of a process that ends. The supervisor restarts such a
process, first at once and then after increasing pauses. On stop, it lets all processes drain.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import structlog

from messaging.periodic import pause
from oneprotect.supervisor.metrics_merge import final_counters, merge_snapshots
from telemetry.metrics import definitions
from telemetry.metrics.child_reports import ChildReport, read_reports
from telemetry.metrics.registry import MetricSnapshot

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
"""Run time after which a process did not fail at start, so that its next pause is the first one again."""
KILL_GRACE_S: Final = 5.0
"""Time beyond its own deadline that a draining process gets before it is killed."""

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
_log = structlog.get_logger(__name__)


class Supervisor:
    """Supervisor of `count` processes of `command`, each with a file descriptor as its last argument.

    `drain_timeout_s` is the time that a process needs to stop.
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
        """Keep all processes running until `stop`, then end them. Returns whether all ended cleanly."""
        keeping = [self._keep_running(number, stop) for number in range(1, self._count + 1)]
        return all(await asyncio.gather(*keeping))

    def is_working(self) -> bool:
        """Return whether at least one process is ready."""
        return any(report.status == "ready" for report in self._reports.values())

    def snapshot(self) -> MetricSnapshot:
        """Return the combined metrics of all processes, including ended ones."""
        own = {
            definitions.RESTARTS: self._starts.total() - len(self._starts),
            definitions.SUPERVISED: self._running,
            definitions.SUPERVISED_WANTED: self._count,
        }
        own_snapshot = MetricSnapshot(values={(metric.name, ()): value for metric, value in own.items()}, latencies={})
        return merge_snapshots([own_snapshot, self._past, *(report.snapshot for report in self._reports.values())])

    async def _keep_running(self, number: int, stop: asyncio.Event) -> bool:
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            started_at = loop.time()
            code = await self._run_once(number, stop)
            if stop.is_set():
                return code in (0, -signal.SIGTERM)  # SIGTERM ends a process that has not accepted any work yet
            if loop.time() - started_at > STABLE_S:
                pause_s = FIRST_PAUSE_S
            _log.error("process.ended", process=number, code=code, next_try_s=pause_s)
            if await pause(pause_s, stop):
                return True
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _run_once(self, number: int, stop: asyncio.Event) -> int:
        own_end, child_end = socket.socketpair()
        with child_end:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(child_end.fileno()),
                env=self._environ,
                pass_fds=(child_end.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # the supervisor handles Ctrl-C, and stops the processes
            )
        self._running += 1
        self._starts[number] += 1
        _log.info("process.started", process=number, pid=process.pid)
        reader, writer = await asyncio.open_unix_connection(sock=own_end)
        reading = asyncio.create_task(read_reports(reader, lambda report: self._reports.__setitem__(number, report)))
        ended, stopping = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._terminate(process)
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
                self._past = merge_snapshots([self._past, final_counters(report.snapshot)])

    async def _terminate(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._drain_timeout_s + KILL_GRACE_S)
            return
        _log.error("process.killed", pid=process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def available_cores() -> int:
    """Return the number of cores that this process may use, by CPU affinity and the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))  # the quota `max` is no number: no limit
    return cores
