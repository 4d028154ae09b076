"""What one process tells of itself, put together: figures, readiness, and the port where both are read."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from telemetry.metrics import definitions
from telemetry.metrics.child_reports import ChildReport
from telemetry.metrics.process_metrics import process_readings
from telemetry.metrics.registry import MetricRegistry, MetricSample
from telemetry.ops_server import OpsPages, serving
from telemetry.otlp.settings import ExportSettings
from telemetry.otlp.trace_context import TraceSampler
from telemetry.readiness import PATIENCE_S, ReadinessState

if TYPE_CHECKING:  # the SDK: only when something is exported
    from telemetry.otlp.exporter import OtlpExporter
    from telemetry.otlp.spans import SpanFactory

LOOK_S: Final = 1.0
NOTHING: Final = ExportSettings()

_log = structlog.get_logger(__name__)


class Telemetry:
    """`role`: `consumer` or `api`. `instance`: names this process. `export`: what goes out over OTLP.

    `patience_s`: for how long readiness survives that the work is not possible.
    """

    def __init__(
        self,
        *,
        version: str,
        role: str,
        instance: str,
        export: ExportSettings = NOTHING,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.instance = instance
        self.counters = MetricRegistry()
        self.sampling = TraceSampler(export)
        self.spans: SpanFactory | None = None
        """Where spans go, if they are exported."""
        self._otlp: OtlpExporter | None = None
        self._every_s = export.metrics_every_s
        if export.traces or export.metrics:
            from telemetry.otlp import exporter

            self._otlp = exporter.OtlpExporter(
                service=f"oneprotect-{role}",
                version=version,
                instance=self.instance,
                traces=export.traces and not self.sampling.is_off,
                metrics=export.metrics,
            )
            self.spans = self._otlp.spans
            self.counters.watch(self._otlp.readings)
        self.readiness = ReadinessState(patience_s=patience_s)
        self._lag_s = 0.0
        self.counters.watch(process_readings(version=version, role=role))
        self.counters.watch(self._readings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look after itself meanwhile."""
        tasks = [asyncio.create_task(self._look(), name="telemetry"), asyncio.create_task(self._export(), name="otlp")]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._otlp is not None:
                await self._otlp.aclose(self.counters.snapshot())

    def report(self) -> ChildReport:
        """How this process is, for its supervisor."""
        return ChildReport.of(self.readiness.word, self.counters.snapshot())

    @contextlib.asynccontextmanager
    async def listening(self, *, host: str, port: int | None) -> AsyncGenerator[None]:
        """Serve the operations port meanwhile, if there is one. Raises `OSError` when it can't be had."""
        if port is None:
            yield
            return
        async with serving(OpsPages(self.counters, self.readiness), host=host, port=port) as bound:
            _log.info("ops.listening", host=host, port=bound)
            yield

    async def _export(self) -> None:
        while self._otlp is not None:
            await asyncio.sleep(self._every_s)
            try:
                await self._otlp.export(self.counters.snapshot())
            except Exception as error:  # noqa: BLE001 - whatever the SDK does not foresee, the next export is tried
                _log.warning("metrics.unexported", error=type(error).__name__)

    async def _look(self) -> None:
        """Measure how late the loop is, and keep an eye on readiness."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            # It fades within seconds, so that a scrape sees a stall that was between two of them.
            self._lag_s = max(loop.time() - due, self._lag_s * 0.9, 0.0)
            self.readiness.look()

    def _readings(self) -> Iterator[MetricSample]:
        yield definitions.LOOP_LAG, (), self._lag_s
        yield definitions.READY, (), self.readiness.look()
