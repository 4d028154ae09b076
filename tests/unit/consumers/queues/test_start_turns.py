"""Turns to start ordered queues."""

import asyncio

from consumers.queues.ordered_queues import StartTurns


async def test_a_tenant_with_many_queues_delays_another_by_one_turn() -> None:
    """The tenants alternate, whatever the number of their queues, and a cancelled start takes no turn."""
    turns, order = StartTurns(1), list[str]()

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
    turns = StartTurns(1)
    async with turns.turn("first") as end:
        end()
        async with asyncio.timeout(5), turns.turn("other"):
            pass
    async with asyncio.timeout(5), turns.turn("first"):
        second = asyncio.create_task(turns.turn("second").__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    await second
