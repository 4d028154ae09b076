"""Consumers that start and stop under load: they share the work, and no delivery is late."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from oneprotect.dev.nats_server import EmbeddedNats
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial

RATE_PER_S = 200
COUNT = 1200
ACK_WAIT_S = 20
LEAST_SHARE = 0.5
"""Least share of an even part; the server serves pull requests in turn, so shares differ at this load."""


async def test_joining_and_leaving_under_load(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted, figure: Callable[[str], None]
) -> None:
    """Four workers share the work, one ends by SIGTERM and another starts; nothing is lost, doubled or late."""
    loop = asyncio.get_running_loop()
    published: dict[str, float] = {}
    async with contextlib.AsyncExitStack() as running:
        site = await running.enter_async_context(Site(tmp_path, nats_server, ack_wait_s=f"{ACK_WAIT_S}"))
        for number in range(10):
            await site.destination(f"d{number}", receiver.url)
        workers = [await running.enter_async_context(site.consumer_process()) for _ in range(4)]
        await until(lambda: all(worker.says("consumer.started") for worker in workers), 30)
        for number in range(40):
            await site.deliver(f"d{number % 10}")
        await until(lambda: len(receiver.seen) == 40, 20)

        began = loop.time()
        for number in range(COUNT):
            await asyncio.sleep(max(0.0, began + number / RATE_PER_S - loop.time()))
            delivery = f"dlv_{number}"
            published[delivery] = loop.time()
            await site.deliver(f"d{number % 10}", delivery=delivery)
            if number == COUNT // 3:
                workers[0].terminate()
            if number == COUNT // 2:
                workers.append(await running.enter_async_context(site.consumer_process()))
                await until(lambda: workers[-1].says("consumer.started"), 30)
        await until(lambda: len(receiver.seen) >= COUNT + 40, 20)
        await until(site.is_settled, 20)
        results = await site.results()

    late_ms = sorted(1000 * (seen.at - published[seen.id]) for seen in receiver.seen if seen.id in published)
    by_worker = Counter(result.worker for result in results if result.delivery in published)
    shared_by_four = Counter(result.worker for result in results if _number(result.delivery) < COUNT // 3)
    assert len(late_ms) == COUNT, "none lost, none twice"
    assert late_ms[-1] < 1000 * ACK_WAIT_S / 2, "no delivery waited for a redelivery"
    assert len(by_worker) == 5
    assert len(shared_by_four) == 4
    assert min(shared_by_four.values()) >= LEAST_SHARE * COUNT / 3 / 4, "each has its part of the work"
    figure(
        f"{COUNT} at {RATE_PER_S}/s: p50 {late_ms[COUNT // 2]:.1f} ms, p99 {late_ms[COUNT * 99 // 100]:.1f} ms, "
        f"longest {late_ms[-1]:.0f} ms; shares of the four {sorted(shared_by_four.values(), reverse=True)}, "
        f"of all five {sorted(by_worker.values(), reverse=True)}"
    )


def _number(delivery: str) -> int:
    """Return the number of a measured delivery; a delivery of the warm-up counts as later than all of them."""
    number = delivery.removeprefix("dlv_")
    return int(number) if number.isdecimal() else COUNT
