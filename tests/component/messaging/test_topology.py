"""`apply` on a real nats-server: creates, updates, compares, and refuses a server that can't carry retries."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

import pytest

from messaging.admin import topology
from messaging.client.connection import NatsConnection, connect
from messaging.client.errors import ServerTooOld, ServerUnavailable
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
from tests.support.site import Site


async def _apply(connection: NatsConnection, *, cap: int = 1000, check: bool = False) -> list[topology.TopologyChange]:
    return await topology.apply(connection, replicas=1, work_per_destination=cap, ack_wait_s=30, check=check)


async def test_apply_creates_everything_once(nats_server: EmbeddedNats) -> None:
    """The first run creates all streams, buckets and consumers of the contract; the second changes nothing."""
    async with connect(nats_server.url, name="test") as connection:
        compared = await _apply(connection, check=True)
        nothing_yet = await connection.api("STREAM.NAMES")
        first = await _apply(connection)
        second = await _apply(connection)
        names = (await connection.api("STREAM.NAMES"))["streams"]

    assert not nothing_yet["streams"]
    assert {change.action for change in compared} == {"create"}
    assert {change.action for change in first} == {"create"}
    assert {change.action for change in second} == {"none"}
    assert set(names) == {stream.name for stream in streams.STREAMS} | {f"KV_{b.name}" for b in streams.BUCKETS}


async def test_apply_updates_and_reports_differences(nats_server: EmbeddedNats) -> None:
    """`apply` updates a changed setting and reports both values; `check` only reports."""
    async with connect(nats_server.url, name="test") as connection:
        await _apply(connection)
        compared = await _apply(connection, cap=5, check=True)
        updated = await _apply(connection, cap=5)
        after = await _apply(connection, cap=5, check=True)

    expected = topology.TopologyChange("stream", streams.WORK.name, "update", {"max_msgs_per_subject": (1000, 5)})
    assert [change for change in compared if change.action != "none"] == [expected]
    assert [change for change in updated if change.action != "none"] == [expected]
    assert {change.action for change in after} == {"none"}


async def test_the_work_stream_limits_each_destination(site: Site) -> None:
    """A full destination causes error 10077, and other destinations are not affected."""
    info = await site.jetstream.connection.api(f"STREAM.INFO.{streams.WORK.name}")

    assert info["config"]["discard"] == "new"
    assert info["config"]["discard_new_per_subject"] is True
    assert info["config"]["max_msgs_per_subject"] == 1000
    assert info["config"]["retention"] == "workqueue"
    assert info["config"]["duplicate_window"] == 600 * 10**9


@contextlib.asynccontextmanager
async def _server_that_says(version: str) -> AsyncGenerator[str]:
    """Return the greeting of another nats-server version, which is all that the check reads."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": version, "max_payload": 1048576, "headers": True, "proto": 1}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("version", "is_refused"), [("2.11.9", True), ("1.4.1", True), ("2.12.0", False)])
async def test_an_old_server_is_rejected_with_the_reason(version: str, is_refused: bool) -> None:
    """A server without message schedules is refused, because retries need them."""
    async with _server_that_says(version) as url, connect(url, name="test") as connection:
        if not is_refused:
            connection.require_version()
            return
        with pytest.raises(ServerTooOld, match=rf"{version} is too old: retries need message schedules; upgrade"):
            await _apply(connection)


async def test_an_unreachable_server_is_reported_at_once(nats_server: EmbeddedNats) -> None:
    """A person at a terminal does not wait: the error names the address and the setting."""
    await nats_server.kill()

    with pytest.raises(ServerUnavailable, match="ONEPROTECT_NATS_URL"):
        async with connect(nats_server.url, name="test"):
            pass
