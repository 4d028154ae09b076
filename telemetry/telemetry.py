"""The telemetry of one process: metrics, traces, readiness and the operations port."""

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

CHECK_EVERY_S: Final = 1.0
NO_EXPORT: Final = ExportSettings()

_log = structlog.get_logger(__name__)


class Telemetry:
    """The telemetry of a process.

    Args:
        role: `consumer` or `api`.
        instance: Name of this process.
        export: Signals to export over OTLP.
        patience_s: Seconds that the process stays ready although it cannot work.
    """

    def __init__(
        self,
        *,
        version: str,
        role: str,
        instance: str,
        export: ExportSettings = NO_EXPORT,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.instance = instance
        self.counters = MetricRegistry()
        self.sampling = TraceSampler(export)
        self.spans: SpanFactory | None = None
        """Creates spans, if traces are exported."""
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
            self.counters.add_source(self._otlp.samples)
        self.readiness = ReadinessState(patience_s=patience_s)
        self._lag_s = 0.0
        self.counters.add_source(process_readings(version=version, role=role))
        self.counters.add_source(self._samples)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Export, and check readiness, while the block runs."""
        tasks = [
            asyncio.create_task(self._check_repeatedly(), name="telemetry"),
            asyncio.create_task(self._export(), name="otlp"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._otlp is not None:
                await self._otlp.aclose(self.counters.snapshot())

    def report(self) -> ChildReport:
        """Return a report for the supervisor."""
        return ChildReport.of(self.readiness.status, self.counters.snapshot())

    @contextlib.asynccontextmanager
    async def listening(self, *, host: str, port: int | None) -> AsyncGenerator[None]:
        """Serve the operations port, if there is one, while the block runs. Raises `OSError` when it is taken."""
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
            except Exception as error:  # noqa: BLE001 - an unexpected error of the SDK must not end the exports
                _log.warning("metrics.export_failed", error=type(error).__name__)

    async def _check_repeatedly(self) -> None:
        """Measure the lag of the event loop, and check readiness."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_EVERY_S
            await asyncio.sleep(CHECK_EVERY_S)
            # The value decays within seconds, so that a scrape sees a stall since the last one.
            self._lag_s = max(loop.time() - due, self._lag_s * 0.9, 0.0)
            self.readiness.check()

    def _samples(self) -> Iterator[MetricSample]:
        yield definitions.LOOP_LAG, (), self._lag_s
        yield definitions.READY, (), self.readiness.check()
