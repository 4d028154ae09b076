"""`python -m bench.harness.collector`: an OTLP collector that counts spans, with commands on stdin.

The command `report` prints the number of spans and of metric exports since the previous report. The collector keeps
the bodies and decodes them only then, so that it uses little CPU during a measurement.
"""

import asyncio
import sys
from typing import Final

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_MAX_BYTES: Final = 64 * 1024 * 1024


class Collector:
    """The received spans and exports."""

    def __init__(self) -> None:
        self._spans: list[bytes] = []
        self._metrics = 0

    async def take_spans(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/traces`."""
        self._spans.append(await request.read())
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/metrics`."""
        await request.read()
        self._metrics += 1
        return web.Response()

    def report(self) -> str:
        """Return the spans and metric exports since the last report."""
        bodies, self._spans = self._spans, []
        metrics, self._metrics = self._metrics, 0
        return f"{sum(map(_count, bodies))} {metrics}"


def _count(body: bytes) -> int:
    sent = ExportTraceServiceRequest.FromString(body)
    return sum(len(scope.spans) for resource in sent.resource_spans for scope in resource.scope_spans)


async def _run() -> None:
    collector, app = Collector(), web.Application(client_max_size=_MAX_BYTES)
    app.router.add_post("/v1/traces", collector.take_spans)
    app.router.add_post("/v1/metrics", collector.take_metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _say(f"port {runner.addresses[0][1]}")
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        _say(f"spans {collector.report()}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_run())
