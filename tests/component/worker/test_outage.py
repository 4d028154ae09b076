"""An outage of NATS while a message is handled: no crash, and nothing is quarantined."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
from schemas.codes import Outcome
from schemas.headers import HEADER_SINCE
from tests.support.receiver import Scripted
from tests.support.site import Site, document
from tests.support.waiting import until


class SilentRelay:
    """A relay to a server. It falls silent when a client reads a message from a leader, as at a partition."""

    def __init__(self, server: EmbeddedNats) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._is_over = asyncio.Event()
        self.is_silent = asyncio.Event()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator["SilentRelay"]:
        """Relay until the end."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self.end_silence()
            server.close()

    def end_silence(self) -> None:
        """Pass on what was held back, and everything from now on."""
        self._is_over.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, to_server), self._pass(upstream, writer), return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b".STREAM.MSG.GET." in data:
                self.is_silent.set()
            if self.is_silent.is_set():
                await self._is_over.wait()
            writer.write(data)
        writer.close()


async def test_a_history_read_that_nats_does_not_answer_is_no_crash(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """The message waits, and is delivered once when NATS is there again."""
    async with (
        Site(tmp_path, nats_server, ack_wait_s="30") as site,
        SilentRelay(nats_server).serve() as relay,
        site.consumer_process(environ={"ONEPROTECT_NATS_URL": relay.url}) as consumer,
    ):
        await site.destination("orders", receiver.url)
        request = document("orders", delivery="dlv_1")
        await site.publish("orders", request, "dlv_1", **{HEADER_SINCE: datetime.now(UTC).isoformat()})
        await relay.is_silent.wait()
        await until(lambda: b'"handler.unavailable"' in consumer.output, 20)
        relay.end_silence()
        await until(site.is_settled, 20)
        results, quarantined = await site.results(), await site.records(streams.QUARANTINE)

    assert b'"handler.crashed"' not in consumer.output
    assert quarantined == []
    assert receiver.ids() == ["dlv_1"]
    assert [result.outcome for result in results] == [Outcome.DELIVERED]
