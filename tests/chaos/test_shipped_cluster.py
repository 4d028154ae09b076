"""A cluster of three servers with the shipped configuration, certificates and users, and a leader that is killed."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from consumers.credentials.control_client import ask_all
from messaging.client.connection import NatsConnection, connect
from messaging.client.errors import JetStreamError
from oneprotect.doctor.durability import Anything, ServerState, judge
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.ids import new_delivery_id
from tests.support.cluster import leader_of
from tests.support.receiver import Scripted
from tests.support.secured import Keys, ShippedServer
from tests.support.site import Process, Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial


_NAMES = ("n1", "n2", "n3")


@contextlib.asynccontextmanager
async def _cluster(directory: Path, keys: Keys) -> AsyncGenerator[list[ShippedServer]]:
    first = random.randrange(10_240, 32_000)  # noqa: S311 - below the ports that systems lend to clients
    routes = {name: first + number for number, name in enumerate(_NAMES)}
    nodes = [ShippedServer(directory / name, keys, name=name, routes=routes) for name in _NAMES]
    await asyncio.gather(*(node.start() for node in nodes))
    try:
        yield nodes
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))


async def _deliver(site: Site) -> str:
    """Repeat the request with one id until the server accepts it, as every producer does."""
    delivery = new_delivery_id()
    while True:
        with contextlib.suppress(JetStreamError):
            return await site.deliver("orders", delivery=delivery)


async def test_a_leader_killed_under_load_loses_nothing(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """Each accepted delivery is delivered, over TLS and as the shipped users, although the leader dies."""
    keys = Keys(tmp_path / "keys")
    async with _cluster(tmp_path / "nats", keys) as nodes, Scripted() as receiver:
        url = ",".join(node.url for node in nodes)
        operator = {
            name.removeprefix("ONEPROTECT_").lower(): value for name, value in keys.settings("operator", url).items()
        }
        async with Site(tmp_path, nodes[0], nats_replicas="3", **operator) as site:
            await site.destination("orders", receiver.url, max_in_flight=16)
            process = await Process.start(site.environ | keys.settings("consumer", url), "consumer")
            try:
                accepted = [await _deliver(site) for _ in range(100)]
                leader = await until(lambda: leader_of(site.jetstream.connection, streams.WORK.name, nodes), 20)
                assert leader is not None
                loading = asyncio.create_task(_load(site, 100))
                await asyncio.sleep(0)
                await leader.kill()
                async with asyncio.timeout(60):
                    accepted += await loading
                await leader.start()
                await until(lambda: set(receiver.ids()) >= set(accepted), 60)
                await until(lambda: _is_settled(site), 60)
                process.terminate()
                assert await process.wait() == 0
            finally:
                process.kill()
            results = await site.results()
        log = "".join(node.log_path.read_text() for node in nodes)

    delivered = Counter(result.delivery for result in results if result.outcome is Outcome.DELIVERED)
    assert set(delivered) == set(accepted)
    assert set(delivered.values()) == {1}
    assert "Violation" not in log
    extra = len(receiver.seen) - len(accepted)
    figure(f"{len(accepted)} accepted over a leader kill, over TLS as role users: 0 lost, {extra} sent twice")


async def _load(site: Site, count: int) -> list[str]:
    return [await _deliver(site) for _ in range(count)]


async def _is_settled(site: Site) -> bool:
    with contextlib.suppress(JetStreamError):
        return await site.is_settled()
    return False


async def test_a_stranger_does_not_become_a_member(tmp_path: Path) -> None:
    """The cluster refuses a server whose certificate another authority signed."""
    keys, strangers = Keys(tmp_path / "keys"), Keys(tmp_path / "strangers")
    async with _cluster(tmp_path / "nats", keys) as nodes:
        routes = nodes[0].routes | {"n4": nodes[0].routes["n1"] + 9}
        stranger = ShippedServer(tmp_path / "stranger", strangers, name="n4", routes=routes)
        spawned = asyncio.create_task(stranger.start())
        try:
            await until(lambda: _is_turned_away(nodes), 20)
        finally:
            spawned.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await spawned
            await stranger.kill()


def _is_turned_away(nodes: list[ShippedServer]) -> bool:
    return any("TLS route handshake error" in node.log_path.read_text() for node in nodes)


async def test_the_doctor_asks_every_server_for_its_durability(tmp_path: Path) -> None:
    """With the configuration of three servers each one reports, and a message has three copies within a second."""
    keys = Keys(tmp_path / "keys")
    async with _cluster(tmp_path / "nats", keys) as nodes:
        url = ",".join(node.url for node in nodes)
        async with connect(keys.access("operator", url), name="test") as connection:
            replies = await until(lambda: _replies(connection), 20)

    assert judge([reply.data.jetstream.config for reply in replies], 3).finding.startswith(
        "replicated: 3 copies, on disk within 1 s"
    )


async def _replies(connection: NatsConnection) -> list[ServerState]:
    found = await ask_all(connection, subjects.SERVERS, Anything(), ServerState)
    return found if {reply.data.server_name for reply in found} == set(_NAMES) else []
