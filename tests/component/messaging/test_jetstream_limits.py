"""A full server and oversized messages: the reported error, and the stored messages."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from messaging.client.connection import connect
from messaging.client.errors import MESSAGE_TOO_LARGE, JetStreamError, RejectedByServer, ServerUnavailable
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Outcome
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

SMALLEST = {f"{name}_max_bytes": str(1024**2) for name in ("archive", "attempts", "events", "quarantine")}
ROOM = 8 * 1024**2


class SmallServer(EmbeddedNats):
    """A server with little disk space."""

    def _config(self, port: int) -> dict[str, Any]:
        config = super()._config(port)
        return config | {"jetstream": config["jetstream"] | {"max_file_store": ROOM}}


async def _fill(site: Site) -> None:
    """Publish until there is no room for anything more."""
    publication = Publication(subjects.overflow("acme", "filling"), b"x" * 100_000, {})
    with contextlib.suppress(JetStreamError):
        for _ in range(2 * ROOM // 100_000):
            await site.jetstream.publisher.publish(publication)


async def test_a_full_server_is_reported_as_unavailable(tmp_path: Path) -> None:
    """A message refused for lack of space can be sent again and is stored once."""
    async with (
        SmallServer(tmp_path / "nats") as server,
        Site(tmp_path, server, **SMALLEST) as site,
    ):
        await _fill(site)
        with pytest.raises(ServerUnavailable, match=r"insufficient (storage )?resources.*\(100(23|47)\)"):
            await site.deliver("orders", delivery="d", payload=b'"%s"' % (b"x" * 200_000))
        await site.jetstream.connection.api(f"STREAM.PURGE.{streams.OVERFLOW.name}")
        await site.deliver("orders", delivery="d", payload=b'"%s"' % (b"x" * 200_000))
        stored = await site.records(streams.WORK)

    assert len(stored) == 1


@pytest.mark.timeout(60)
async def test_a_result_is_stored_once_the_server_has_space_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    """A result waits for disk space, and its delivery is not sent again."""
    async with (
        SmallServer(tmp_path / "nats") as server,
        Scripted() as receiver,
        Site(tmp_path, server, **SMALLEST) as site,
    ):
        receiver.hold = asyncio.Event()
        await site.destination("orders", receiver.url)
        async with site.consumer_process() as consumer:
            delivery = await site.deliver("orders")
            await until(lambda: len(receiver.seen) == 1, 20)
            await _fill(site)
            receiver.hold.set()
            await until(lambda: consumer.says("publish.failed"), 20)
            before = await site.results(delivery)
            await site.jetstream.connection.api(f"STREAM.PURGE.{streams.OVERFLOW.name}")
            await until(site.is_settled, 30)
            after = await site.results(delivery)

    assert before == []
    assert [result.outcome for result in after] == [Outcome.DELIVERED]
    assert len(receiver.seen) == 1


@pytest.mark.parametrize("size", [980_000, 1_200_000])
async def test_a_message_that_is_too_large_is_rejected_at_once(nats_server: EmbeddedNats, size: int) -> None:
    """The client does not retry a message that exceeds the limit of the stream or server."""
    async with connect(nats_server.url, name="test") as connection, JetStreamPublisher(connection) as publisher:
        config = {"name": "X", "subjects": ["x"], "max_msg_size": streams.MAX_MESSAGE_BYTES - 10_000}
        await connection.api("STREAM.CREATE.X", config)
        with pytest.raises(RejectedByServer) as refused:
            await publisher.publish(Publication("x", b"x" * size, {}))
        stored = await publisher.publish(Publication("x", b"small", {}))

    assert refused.value.err_code == MESSAGE_TOO_LARGE
    assert stored.seq == 1
