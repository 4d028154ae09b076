"""Consumers that join and leave beside an ordered destination: its mover takes nothing from other destinations."""

import asyncio
import contextlib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from consumers.queues.ordered_transfer import MAX_NAK_DELAY_S, hand_over
from messaging.client.term import Term, clock, held_s
from messaging.message import Message
from messaging.pull_consumer import fetch
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
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


async def test_a_message_that_is_handed_over_comes_again_within_its_term(site: Site) -> None:
    """Otherwise nothing could move it between the end of its term and the end of the pause."""
    await site.destination("orders", "http://127.0.0.1:1024/")
    await site.deliver("orders")
    fetch_one = partial(fetch, site.jetstream.connection, stream=streams.WORK.name, consumer="delivery", batch=1)
    found: list[Message] = await fetch_one()
    found[0].term = Term(clock() + held_s(2))

    hand_over(found, MAX_NAK_DELAY_S, datetime.now(UTC))
    handed_s = clock()

    async def has_come_again() -> bool:
        found.extend(await fetch_one())
        return len(found) > 1

    await until(has_come_again, 20)
    assert clock() - handed_s < MAX_NAK_DELAY_S - 1
