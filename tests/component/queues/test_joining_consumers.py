"""Consumers that join and leave beside an ordered destination: its mover takes nothing from other destinations."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from oneprotect.dev.nats_server import EmbeddedNats
from schemas.codes import Outcome
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until


@pytest.mark.serial
async def test_nothing_is_lost_when_consumers_join_and_leave(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A purge by the mover once took the deliveries that a leaving consumer handed back."""
    async with (
        Scripted() as slow,
        Scripted() as receiver,
        Site(tmp_path, nats_server, ack_wait_s="5") as site,
        contextlib.AsyncExitStack() as running,
    ):
        await site.destination("slow", slow.url, rate_per_s=40)
        await site.destination("orders", receiver.url, ordering="fifo")
        ordered, stop = list[str](), asyncio.Event()

        async def produce() -> None:
            while not stop.is_set():
                ordered.append(await site.deliver("orders"))
                await asyncio.sleep(0.02)

        first = await running.enter_async_context(site.consumer_process())
        producing = asyncio.create_task(produce())
        await until(lambda: receiver.seen, 20)
        others = [await site.deliver("slow") for _ in range(200)]
        await until(lambda: len(slow.seen) >= 20, 20)
        await running.enter_async_context(site.consumer_process())
        await until(lambda: len(slow.seen) >= 60, 20)
        first.terminate()
        assert await first.wait() == 0
        stop.set()
        await producing
        await until(site.is_settled, 60)
        results = await site.results()
        log = nats_server.log_path.read_text()

    assert set(slow.ids()) == set(others)
    assert list(dict.fromkeys(receiver.ids())) == ordered
    delivered = {result.delivery for result in results if result.outcome is Outcome.DELIVERED}
    assert delivered == {*others, *ordered}
    assert "error on write store state from purge" not in log
