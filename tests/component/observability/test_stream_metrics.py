"""What consumers tell of the backlog, on a real server."""

import asyncio

from consumers.observability.stream_metrics import StreamMetrics
from schemas import streams
from telemetry.metrics import definitions
from tests.support.site import Site


async def test_a_stream_that_does_not_answer_leaves_the_other_figures(site: Site) -> None:
    """With one stream gone, what the others and their consumers say is told all the same."""
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
