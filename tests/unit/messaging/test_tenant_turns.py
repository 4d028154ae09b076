"""Turns of tenants."""

import asyncio

import pytest

from messaging.tenant_turns import FairTurns, TooManyWaiting, Turn


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


def test_a_tenant_exceeds_its_bytes_with_one_turn() -> None:
    """The time that a turn takes from the others grows with its size, and every size has its turn."""
    turns = FairTurns(bytes_per_tenant=100)
    first, second = turns.ask("large", size=400), turns.ask("large", size=10)
    small = [turns.ask("small", size=50) for _ in range(3)]

    assert [turn.state for turn in (first, second)] == [Turn.RUNNING, Turn.WAITING]
    assert [turn.state for turn in small] == [Turn.RUNNING, Turn.RUNNING, Turn.WAITING]
    turns.end(first)
    assert second.state == Turn.RUNNING
    turns.end(small[0])
    assert small[2].state == Turn.RUNNING


def test_a_small_turn_of_a_quiet_tenant_waits_for_no_other_tenant() -> None:
    """Others wait while all turns have as many bytes as they may, and a later turn does not overtake them."""
    turns = FairTurns(max_bytes=100, free_bytes=10)
    running = turns.ask("flood", size=90)
    large, quiet, fitting = turns.ask("other", size=50), turns.ask("quiet", size=10), turns.ask("late", size=11)

    assert [turn.state for turn in (running, large, quiet)] == [Turn.RUNNING, Turn.WAITING, Turn.RUNNING]
    assert fitting.state == Turn.WAITING
    turns.end(running)
    assert [turn.state for turn in (large, fitting)] == [Turn.RUNNING, Turn.RUNNING]


def test_waiting_turns_are_bounded_by_number_and_bytes() -> None:
    """A tenant is refused at its bound, and every tenant may always have one turn waiting."""

    def refused_after(turns: FairTurns, tenant: str, size: int) -> int:
        for number in range(100):
            try:
                turns.ask(tenant, size=size)
            except TooManyWaiting:
                return number
        return 100

    turns = FairTurns(1, max_waiting=20, waiting_bytes_per_tenant=1000, max_waiting_bytes=2500)
    turns.ask("first")

    assert refused_after(turns, "many", 1) == 20
    assert [refused_after(turns, name, 200) for name in ("large", "second", "third")] == [5, 5, 2]
    assert refused_after(turns, "last", 5000) == 1


async def test_a_turn_that_does_not_come_in_time_leaves_the_queue() -> None:
    """The next one gets it."""
    turns = FairTurns(1)
    running = turns.ask("first")
    with pytest.raises(TimeoutError):
        await turns.wait("second", within_s=0.01)
    waiting = turns.ask("third")

    turns.end(running)

    assert waiting.state == Turn.RUNNING
