"""What one process tells of itself, put together: figures, readiness, and the port where both are read."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Final

import structlog

from oneprotect.telemetry import catalogue
from oneprotect.telemetry.counters import Counters, Reading
from oneprotect.telemetry.ops import OpsPages, serving
from oneprotect.telemetry.process import process_readings
from oneprotect.telemetry.readiness import Readiness

LOOK_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Telemetry:
    """`role`: `consumer` or `api`."""

    def __init__(self, *, version: str, role: str) -> None:
        self.counters = Counters()
        self.readiness = Readiness()
        self._lag_s = 0.0
        self.counters.watch(process_readings(version=version, role=role))
        self.counters.watch(self._readings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look after itself meanwhile."""
        looking = asyncio.create_task(self._look(), name="telemetry")
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    @contextlib.asynccontextmanager
    async def listening(self, *, host: str, port: int | None) -> AsyncGenerator[None]:
        """Serve the operations port meanwhile, if there is one. Raises `OSError` when it can't be had."""
        if port is None:
            yield
            return
        async with serving(OpsPages(self.counters, self.readiness), host=host, port=port) as bound:
            _log.info("ops.listening", host=host, port=bound)
            yield

    async def _look(self) -> None:
        """Measure how late the loop is, and keep an eye on readiness."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            # It fades within seconds, so that a scrape sees a stall that was between two of them.
            self._lag_s = max(loop.time() - due, self._lag_s * 0.9, 0.0)
            self.readiness.look()

    def _readings(self) -> Iterator[Reading]:
        yield catalogue.LOOP_LAG, (), self._lag_s
        yield catalogue.READY, (), self.readiness.look()
