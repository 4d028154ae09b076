"""An OTLP/HTTP collector that decodes and keeps everything that a process exports."""

import gzip
from typing import Any, Self

import msgspec
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(msgspec.Struct, frozen=True):
    """A received span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    status_text: str
    attributes: dict[str, Any]
    events: int
    service: str


class Collector:
    """A collector on loopback."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        """The received bodies, decompressed."""
        self.spans: list[Span] = []
        self.metrics: dict[str, list[Any]] = {}
        """The latest data points of each metric, by name."""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/traces", self._take_spans)
        app.router.add_post("/v1/metrics", self._take_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()

    def named(self, name: str) -> list[Span]:
        """Return the spans of that name in the order of their start."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_ns)

    def below(self, span: Span) -> dict[str, Span]:
        """Return the children of `span` by name."""
        return {one.name: one for one in self.spans if one.parent_id == span.span_id}

    def value(self, metric: str, **labels: str) -> float | None:
        """Return the latest value of a series."""
        for point in self.metrics.get(metric, ()):
            if _attributes(point.attributes) == labels:
                return float(point.as_double)
        return None

    async def _body(self, request: web.Request) -> bytes:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip" and body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        self.bodies.append(body)
        return body

    async def _take_spans(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await self._body(request))
        for resource in sent.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(span, service) for span in scope.spans]
        return web.Response()

    async def _take_metrics(self, request: web.Request) -> web.Response:
        sent = ExportMetricsServiceRequest.FromString(await self._body(request))
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics[metric.name] = list(getattr(metric, metric.WhichOneof("data") or "gauge").data_points)
        return web.Response()


def _span(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == 2,
        status_text=span.status.message,
        attributes=_attributes(span.attributes),
        events=len(span.events),
        service=service,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
