"""Export over OTLP/HTTP with the OpenTelemetry SDK: spans in batches from a thread, metrics from snapshots.

The module is imported only when `OTEL_*` enable an export, because the SDK is large. The exporters read endpoint,
headers, certificates and limits from their own variables. Their logs may quote the endpoint with a token in it, so they
are silenced; failed exports are counted instead.
"""

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, cast

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from telemetry.metrics import definitions
from telemetry.metrics.definitions import CATALOGUE, MetricDefinition
from telemetry.metrics.registry import Labels, LatencySnapshot, MetricSample, MetricSnapshot, with_former_names
from telemetry.otlp.span_encoder import request_bytes, request_start
from telemetry.otlp.spans import EncodedSpan, SpanFactory

LAST_S: Final = 3.0
"""Limit of the last export, so that an unavailable collector does not delay the end of the process."""

_CUMULATIVE: Final = sdk.AggregationTemporality.CUMULATIVE


class OtlpExporter:
    """The exporters of one process."""

    def __init__(self, *, service: str, version: str, instance: str, traces: bool, metrics: bool) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        resource = Resource.create({"service.version": version, "service.instance.id": instance})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # it is not set
            resource = resource.merge(Resource({"service.name": service}))
        signals = [name for name, wanted in (("traces", traces), ("metrics", metrics)) if wanted]
        self._results = collections.Counter({(signal, result): 0 for signal in signals for result in ("ok", "failed")})
        self._resource = resource
        self._scope = InstrumentationScope("oneprotect", version)
        start = request_start(resource.attributes, "oneprotect", version)
        self._spans = _SpanExporter(start, self._results) if traces else None
        self._processor = BatchSpanProcessor(self._spans) if self._spans else None
        self._metrics: _MetricExporter | None = OTLPMetricExporter() if metrics else None
        self._began_ns = time.time_ns()
        self.spans = SpanFactory(self._processor.on_end) if self._processor else None
        """Creates spans; None when traces are not exported."""

    def samples(self) -> Iterator[MetricSample]:
        """Yield the results of exports; a source for `MetricRegistry.add_source`."""
        for (signal, result), count in list(self._results.items()):
            yield definitions.EXPORTS, (("signal", signal), ("result", result)), count

    async def export(self, snapshot: MetricSnapshot) -> None:
        """Export a snapshot of all metrics, in a thread."""
        if self._metrics is None:
            return
        data = _metrics_data(snapshot, self._resource, self._scope, self._began_ns)
        result = await asyncio.to_thread(self._metrics.export, data)
        self._results["metrics", "ok" if result is sdk.MetricExportResult.SUCCESS else "failed"] += 1

    async def aclose(self, snapshot: MetricSnapshot) -> None:
        """Export what is left, within `LAST_S`."""
        closing = asyncio.gather(self.export(snapshot), self._close_spans())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), LAST_S)
        for exporter in (self._spans, self._metrics):
            if exporter is not None:
                exporter.shutdown()  # ends the pauses between retries, so that the threads end
        await closing

    async def _close_spans(self) -> None:
        if self._processor is not None:
            closing: _HasShutdown = self._processor
            await asyncio.to_thread(closing.shutdown)


class _MetricExporter(Protocol):
    """The SDK's exporter, whose own types are partial."""

    def export(self, metrics_data: sdk.MetricsData) -> sdk.MetricExportResult: ...
    def shutdown(self) -> None: ...


class _HasShutdown(Protocol):
    """An object with `shutdown`."""

    def shutdown(self) -> None: ...


class _SpanExporter(OTLPSpanExporter):
    """The SDK's exporter for encoded spans; it counts the results of exports."""

    def __init__(self, start: tuple[bytes, bytes], results: collections.Counter[tuple[str, str]]) -> None:
        super().__init__()
        self._start = start
        self._results = results

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = request_bytes(self._start, [span.body for span in spans if isinstance(span, EncodedSpan)])
        is_accepted = self._client.export(body).success
        self._results["traces", "ok" if is_accepted else "failed"] += 1
        return SpanExportResult.SUCCESS if is_accepted else SpanExportResult.FAILURE


def _metrics_data(
    snapshot: MetricSnapshot, resource: Resource, scope: InstrumentationScope, began_ns: int
) -> sdk.MetricsData:
    """Return a snapshot in the types of the SDK: cumulative, in the order of the catalogue."""
    now_ns, snapshot = time.time_ns(), with_former_names(snapshot)
    points: dict[str, list[Any]] = {}
    for (name, labels), value in snapshot.values.items():
        start_ns = began_ns if CATALOGUE[name].kind == "counter" else now_ns
        points.setdefault(name, []).append(sdk.NumberDataPoint(dict(labels), start_ns, now_ns, float(value)))
    for (name, labels), latency in snapshot.latencies.items():
        points.setdefault(name, []).append(_distribution(CATALOGUE[name], labels, latency, began_ns, now_ns))
    metrics = [_metric(metric, points[name]) for name, metric in CATALOGUE.items() if name in points]
    return sdk.MetricsData([sdk.ResourceMetrics(resource, [sdk.ScopeMetrics(scope, metrics, "")], "")])


def _distribution(
    metric: MetricDefinition, labels: Labels, latency: LatencySnapshot, began_ns: int, now_ns: int
) -> sdk.HistogramDataPoint:
    # Minimum and maximum are not recorded. The data model allows that, although the SDK's types do not.
    unknown = cast("float", None)
    return sdk.HistogramDataPoint(
        attributes=dict(labels),
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=latency.count,
        sum=latency.sum_s,
        bucket_counts=latency.buckets,
        explicit_bounds=metric.bounds_s,
        min=unknown,
        max=unknown,
    )


def _metric(metric: MetricDefinition, points: list[Any]) -> sdk.Metric:
    data: sdk.Sum | sdk.Gauge | sdk.Histogram
    if metric.kind == "counter":
        data = sdk.Sum(points, _CUMULATIVE, is_monotonic=True)
    elif metric.kind == "gauge":
        data = sdk.Gauge(points)
    else:
        data = sdk.Histogram(points, _CUMULATIVE)
    return sdk.Metric(metric.name, metric.help, _unit(metric.name), data)


def _unit(name: str) -> str:
    words = name.removesuffix("_total").split("_")
    return {"seconds": "s", "bytes": "By"}.get(words[-1], "1")
