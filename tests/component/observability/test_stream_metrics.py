"""Backlog metrics of consumers on a real server."""

import asyncio

from consumers.observability.stream_metrics import StreamMetrics
from schemas import streams
from telemetry.metrics import definitions
from tests.support.site import Site


async def test_a_missing_stream_does_not_affect_other_metrics(site: Site) -> None:
    """Metrics of the other streams and their consumers are still exported."""
    jetstream = site.jetstream
    await jetstream.connection.api(f"STREAM.DELETE.{streams.OVERFLOW.name}")
    await site.deliver("orders")
    backlog = StreamMetrics(jetstream.connection, jetstream.replays)
    stop = asyncio.Event()
    stop.set()

    await backlog.run(stop)

    told = {(metric.name, labels): value for metric, labels, value in backlog()}
    assert told[definitions.PENDING.name, (("stream", streams.WORK.name),)] == 1
    assert told[definitions.SCHEDULED.name, ()] == 0
