"""The operations port of a running consumer: alive, ready, and its metrics."""

import asyncio
import socket
from pathlib import Path

import pytest

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from tests.support.ops import Ops
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until


async def test_a_consumer_serves_health_readiness_and_metrics(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A consumer with a port is live and ready, exports metrics and refuses other paths."""
    port = free_port()
    ops = Ops(port)
    async with (
        Site(tmp_path, nats_server, ops_port=str(port)) as site,
        Scripted() as receiver,
    ):
        await site.destination("orders", receiver.url)
        async with site.consumer_process() as consumer:
            await until(ops.is_ready, 20)
            assert await ops.get("/healthz") == (200, "alive\n")
            assert await ops.get("/readyz") == (200, "ready\n")
            assert (await ops.get("/healthz", "HEAD")) == (200, "")
            assert (await ops.get("/metrics", "POST"))[0] == 405
            assert (await ops.get("/"))[0] == 404
            assert await ops.value("oneprotect_nats_connected") == 1
            assert await ops.value("oneprotect_in_flight_limit") == 256
            assert await ops.value('oneprotect_stream_messages{stream="ONEPROTECT_WORK"}') == 0
            consumer.terminate()
            assert await consumer.wait() == 0
        assert await ops.get("/healthz") == (0, "")


async def test_health_does_not_depend_on_nats(tmp_path: Path) -> None:
    """Without a NATS server a consumer is alive, and not ready, as it has never been able to work."""
    port = free_port()
    ops = Ops(port)
    async with EmbeddedNats(tmp_path / "gone") as server:
        site = Site(tmp_path, server, ops_port=str(port))

    async def is_alive() -> bool:
        return (await ops.get("/healthz"))[0] == 200

    async with site.consumer_process() as consumer:
        await until(is_alive, 20)
        assert await ops.get("/readyz") == (503, "starting\n")
        consumer.terminate()
        assert await consumer.wait() == 0


async def test_a_restart_of_nats_does_not_make_it_unready(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """While NATS is away for a moment a consumer stays ready, and afterwards it has come back by itself."""
    port = free_port()
    ops = Ops(port)
    async with Site(tmp_path, nats_server, ops_port=str(port)) as site, site.consumer():
        await until(ops.is_ready, 20)
        await nats_server.restart()
        assert await ops.is_ready()

        async def is_back() -> bool:
            return await ops.value("oneprotect_nats_reconnects_total") == 1

        await until(is_back, 20)
        assert await ops.is_ready()


async def test_a_used_port_is_reported(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A consumer without its port does not start, and names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with Site(tmp_path, nats_server, ops_port=port) as site, site.consumer_process() as consumer:
            async with asyncio.timeout(20):
                assert await consumer.wait() == 2
            assert consumer.says("ONEPROTECT_OPS_PORT: cannot listen on it")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_contains_no_tenant_data(tmp_path: Path, nats_server: EmbeddedNats, path: str) -> None:
    """The health response is one status without tenants or destinations."""
    port = free_port()
    async with Site(tmp_path, nats_server, ops_port=str(port)) as site, site.consumer():
        ops = Ops(port)
        await until(ops.is_ready, 20)
        assert (await ops.get(path))[1] in ("alive\n", "ready\n")
