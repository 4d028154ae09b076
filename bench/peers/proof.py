"""Check that a broker keeps accepted deliveries after kill -9, with the producer of each peer and of the product."""

from pathlib import Path
from typing import Final

from bench.harness.load import Load
from bench.harness.site import Site
from bench.harness.workload import PRODUCT
from bench.peers.broker import Broker, Nats, redis
from bench.peers.measure import PeerBench
from bench.peers.plan import Peer
from messaging.admin import topology
from messaging.client.connection import connect
from messaging.publisher import JetStreamPublisher
from oneprotect.dev.nats_server import EmbeddedNats
from tests.support.waiting import until

COUNT: Final = 1000
_BACK_S: Final = 20.0


async def kept_of_product(directory: Path) -> int:
    """Return the number of `COUNT` requests in the work stream after a kill of its server."""
    async with (
        EmbeddedNats(directory) as server,
        connect(server.url, name="bench") as connection,
        JetStreamPublisher(connection) as publisher,
    ):
        await topology.apply(connection, replicas=1, work_per_destination=COUNT, ack_wait_s=30)
        await Load(publisher, PRODUCT).burst(COUNT)
        await server.kill()
        await server.restart()
        await until(lambda: connection.is_connected, _BACK_S)
        info = await connection.api(f"STREAM.INFO.{PRODUCT.work.name}")
        return int(info["state"]["messages"])


async def kept(peer: Peer, site: Site, directory: Path) -> int:
    """Return the number of `COUNT` deliveries in a broker of the peer after a kill."""
    if peer.broker == "nats":
        return await _kept_by_nats(peer, site, directory)
    to_disk, store = peer.broker == "redis", directory / f"proof-{peer.name}"
    async with redis(store, to_disk=to_disk) as broker:
        await _produce(peer, site, broker, directory)
        await broker.kill()
    async with redis(store, to_disk=to_disk) as broker:
        return await broker.waiting(peer)


async def _kept_by_nats(peer: Peer, site: Site, directory: Path) -> int:
    async with (
        EmbeddedNats(directory / f"proof-{peer.name}") as server,
        connect(server.url, name="bench") as connection,
    ):
        broker = Nats(server.url, connection, float)
        await broker.create()
        await _produce(peer, site, broker, directory)
        await server.kill()
        await server.restart()
        await until(lambda: connection.is_connected, _BACK_S)
        return await broker.waiting(peer)


async def _produce(peer: Peer, site: Site, broker: Broker, directory: Path) -> None:
    await PeerBench(site, peer, broker, directory).produce("proof", COUNT)
