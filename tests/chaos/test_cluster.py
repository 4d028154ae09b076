"""Kills of leaders in a cluster of three servers under load: every accepted delivery is delivered."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from messaging.client.errors import JetStreamError
from schemas import streams
from schemas.codes import Outcome
from schemas.ids import new_delivery_id
from tests.support.cluster import Node, cluster, leader_of
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial


async def _deliver(site: Site) -> str:
    """Repeat the request with one id until the server accepts it, as every producer does."""
    delivery = new_delivery_id()
    while True:
        with contextlib.suppress(JetStreamError):
            return await site.deliver("orders", delivery=delivery)


async def test_a_stream_leader_killed_under_load_loses_nothing(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """The leader of the work stream dies twice during deliveries, and each accepted one is delivered."""
    accepted: list[str] = []
    async with (
        cluster(tmp_path / "nats") as nodes,
        Scripted() as receiver,
        Site(tmp_path, nodes[0], nats_replicas="3") as site,
    ):
        await site.destination("orders", receiver.url, max_in_flight=16)
        async with site.consumer_process():
            for _ in range(2):
                accepted += [await _deliver(site) for _ in range(100)]
                leader = await _leader(site, nodes)
                await leader.kill()
                async with asyncio.timeout(60):
                    accepted += [await _deliver(site) for _ in range(100)]
                await leader.start()
            await until(lambda: set(receiver.ids()) >= set(accepted), 60)
            await until(lambda: _is_settled(site), 60)
        results = await site.results()

    delivered = Counter(result.delivery for result in results if result.outcome is Outcome.DELIVERED)
    assert set(delivered) == set(accepted)
    assert set(delivered.values()) == {1}
    extra = len(receiver.seen) - len(accepted)
    figure(f"{len(accepted)} accepted over 2 leader kills, all delivered, 0 lost, {extra} sent twice")


async def _leader(site: Site, nodes: list[Node]) -> Node:
    leader = await until(lambda: leader_of(site.jetstream.connection, streams.WORK.name, nodes), 20)
    assert leader is not None
    return leader


async def _is_settled(site: Site) -> bool:
    with contextlib.suppress(JetStreamError):
        return await site.is_settled()
    return False
