"""Turns of tenants."""

import asyncio

import pytest

from messaging.tenant_turns import FairTurns, TooManyWaiting


async def test_a_tenant_with_many_queues_delays_another_by_one_turn() -> None:
    """The tenants alternate, whatever the number of their queues, and a cancelled start takes no turn."""
    turns, order = FairTurns(1), list[str]()

    async def start(name: str) -> None:
        async with turns.turn(name.partition("-")[0]):
            order.append(name)

    async with turns.turn("first"):
        tasks = [asyncio.create_task(start(f"many-{number}")) for number in range(100)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(start(f"few-{number}")) for number in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)

    assert order.index("few-0") <= 1
    assert order.index("few-1") <= 3
    assert len(order) == 101


async def test_a_turn_may_end_early_and_ends_once() -> None:
    """The next start begins while the first queue still runs, and no turn is gained."""
    turns = FairTurns(1)
    async with turns.turn("first") as end:
        end()
        async with asyncio.timeout(5), turns.turn("other"):
            pass
    async with asyncio.timeout(5), turns.turn("first"):
        second = asyncio.create_task(turns.turn("second").__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    await second


async def test_a_tenant_at_its_own_limit_leaves_free_turns_to_others() -> None:
    """A tenant has at most `per_tenant` turns, and another that waits later begins before it."""
    turns = FairTurns(3, per_tenant=2)
    first, second = turns.turn("many"), turns.turn("many")
    await first.__aenter__()
    await second.__aenter__()
    third = asyncio.create_task(turns.turn("many").__aenter__())
    await asyncio.sleep(0)

    async with asyncio.timeout(5), turns.turn("few"):
        assert not third.done()
    await asyncio.sleep(0)
    assert not third.done()
    await first.__aexit__(None, None, None)
    async with asyncio.timeout(5):
        await third


async def test_a_tenant_that_waits_for_too_many_turns_is_refused() -> None:
    """A cancelled turn no longer counts."""
    turns = FairTurns(1, max_waiting=1)
    async with turns.turn("many"):
        waiting = asyncio.create_task(turns.turn("many").__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(TooManyWaiting):
            await turns.turn("many").__aenter__()
        waiting.cancel()
        await asyncio.wait([waiting])
        again = asyncio.create_task(turns.turn("many").__aenter__())
        await asyncio.sleep(0)
        assert not again.done()
    async with asyncio.timeout(5):
        await again
