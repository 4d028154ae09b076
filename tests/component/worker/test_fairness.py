"""Fairness: a tenant's backlog or a slow destination does not delay the others."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
from tests.support.receiver import HANG, Scripted
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial

FLOOD = 3000


async def test_a_flood_on_a_dead_receiver_delays_no_other(
    tmp_path: Path, nats_server: EmbeddedNats, figure: Callable[[str], None]
) -> None:
    """With thousands of messages due and overflowed, other destinations get their deliveries as usual."""
    began: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    async with (
        Scripted([HANG]) as slow,
        Scripted() as quick,
        Site(tmp_path, nats_server, work_per_destination="500", ack_wait_s="10") as site,
    ):
        await site.destination("slow", slow.url, timeout_s=30)
        for number in range(10):
            await site.destination(f"quick-{number}", quick.url)
        for _ in range(FLOOD // 100):
            await asyncio.gather(*(site.deliver("slow") for _ in range(100)))
        overflowed = len(await site.records(streams.OVERFLOW))
        async with site.consumer_process() as consumer:
            await until(lambda: len(slow.seen) == 8, 20)
            for number in range(300):
                delivery = f"dlv_{number}"
                began[delivery] = loop.time()
                await site.deliver(f"quick-{number % 10}", delivery=delivery)
            await until(lambda: len(quick.seen) == 300, 10)
            consumer.kill()

    times_ms = sorted(1000 * (seen.at - began[seen.id]) for seen in quick.seen)
    p50, p99 = times_ms[150], times_ms[296]
    assert overflowed == FLOOD - 500
    assert len(slow.seen) == 8, "the flooder has what its limit allows, and no more"
    assert p99 < 500, "far below what waiting behind the flood would take; see bench/fairness.py for the figures"
    figure(f"{FLOOD} waiting on a dead receiver; the others: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
