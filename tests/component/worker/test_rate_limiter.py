"""Rate limits per destination, across all consumers."""

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import Callable

import pytest

from consumers.worker import rate_limiter
from consumers.worker.rate_limiter import RateGrant, RateLimiter
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.serial


class _Grant(RateGrant, weakref=True):
    """A grant whose end can be noticed."""


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_rate_applies_to_all_consumers_together(
    site: Site, receiver: Scripted, figure: Callable[[str], None], workers: int
) -> None:
    """One and four consumers stay within ten percent of the limit and delay no other destination."""
    rate_per_s, count = 100.0, 400
    async with Scripted() as other:
        await site.destination("limited", receiver.url, rate_per_s=rate_per_s)
        await site.destination("free", other.url)
        async with contextlib.AsyncExitStack() as consumers:
            for _ in range(workers):
                await consumers.enter_async_context(site.consumer())
            for _ in range(count):
                await site.deliver("limited")
            for _ in range(50):
                await site.deliver("free")
            await until(lambda: len(other.seen) == 50, 10)
            limited_meanwhile = len(receiver.seen)
            await until(lambda: len(receiver.seen) == count, 20)
            await until(site.is_settled, 10)

    first, last = receiver.seen[0].at, receiver.seen[-1].at
    measured = (count - 1) / (last - first)
    assert limited_meanwhile < count
    assert 0.85 * rate_per_s <= measured <= 1.1 * rate_per_s
    figure(f"{workers} consumers, {rate_per_s:.0f}/s asked for, {measured:.1f}/s measured")


async def test_a_destination_that_is_no_longer_used_takes_no_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limiter keeps the grants that may still be used."""
    grants: list[weakref.ref[_Grant]] = []

    def create(starts: int, until: float) -> _Grant:
        grant = _Grant(starts, until)
        grants.append(weakref.ref(grant))
        return grant

    monkeypatch.setattr(rate_limiter, "GRANT_LIFETIME_S", 0.0)
    monkeypatch.setattr(rate_limiter, "RateGrant", create)
    rates = {f"acme.d{number}": 1000.0 for number in range(20)}
    limiter = RateLimiter(site.jetstream.rates, rates)
    granted: asyncio.Queue[str] = asyncio.Queue()
    limiter.on_grant(granted.put_nowait)
    for lane in rates:
        assert not limiter.try_acquire(lane, 1)
        assert await asyncio.wait_for(granted.get(), 10) == lane

    assert len(grants) == 20
    assert sum(grant() is not None for grant in grants) == 1


async def test_a_slow_rate_is_even(site: Site, receiver: Scripted) -> None:
    """Four a second are a quarter of a second apart."""
    await site.destination("limited", receiver.url, rate_per_s=4)

    async with site.consumer(), site.consumer():
        for _ in range(6):
            await site.deliver("limited")
        await until(lambda: len(receiver.seen) == 6, 10)

    gaps = [after.at - before.at for before, after in itertools.pairwise(receiver.seen)]
    assert min(gaps) > 0.15
    assert receiver.seen[-1].at - receiver.seen[0].at == pytest.approx(5 / 4, rel=0.25)
