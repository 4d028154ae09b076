"""The watchdog of the event loop: a process whose loop stalls ends itself, so that it is started again.

A stalled loop answers no request and extends no deadline. Two clocks find a stall. A timer of the kernel counts the CPU
time of the process, and needs no lock of the interpreter: it finds an endless computation. A thread counts its own
ticks: it finds a loop that waits in a system call. Neither counts the time in which the whole process is paused.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Final

TICK_S: Final = 1.0
_STDERR: Final = 2


@contextlib.asynccontextmanager
async def watch_event_loop(timeout_s: float) -> AsyncGenerator[None]:
    """End this process by SIGPROF when its event loop stalls for `timeout_s` inside the context.

    The places in the code where the process was are written to stderr, without any value. So they are for a crash of
    the interpreter.
    """
    faulthandler.enable(file=_STDERR)
    faulthandler.register(signal.SIGPROF, file=_STDERR, chain=True)
    watchdog = _Watchdog(timeout_s)
    watchdog.start()
    beating = asyncio.create_task(watchdog.beat_regularly(), name="watchdog")
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        watchdog.stop()


class _Watchdog:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tick_s = min(TICK_S, timeout_s / 4)
        self._beats = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._stopped.set()
        self._thread.join()

    async def beat_regularly(self) -> None:
        while True:
            self._beats += 1
            signal.setitimer(signal.ITIMER_PROF, self._timeout_s)
            await asyncio.sleep(self._tick_s)

    def _watch(self) -> None:
        seen = ticks = 0
        while not self._stopped.wait(self._tick_s):
            seen, ticks = self._beats, ticks + 1 if seen == self._beats else 0
            if ticks * self._tick_s >= self._timeout_s:
                os.kill(os.getpid(), signal.SIGPROF)
