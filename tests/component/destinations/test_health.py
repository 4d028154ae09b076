"""Delivery to destinations that are gone, busy, failing or recovered, and the events about them."""

import asyncio
from datetime import timedelta

import msgspec

from consumers.destinations.circuit_breaker import HealthPolicy
from schemas import streams
from schemas.codes import Code, Outcome
from schemas.headers import HEADER_DEFERRALS
from tests.support.receiver import Answer, Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

QUICK = HealthPolicy(
    failures=3, failing_for=timedelta(0), open_for=timedelta(seconds=1), max_open_for=timedelta(seconds=1)
)


async def _events(site: Site) -> list[str]:
    return [
        msgspec.json.decode(record.data)["type"]
        for record in await site.records(streams.EVENTS)
        if record.subject.startswith("oneprotect.event.destination.")
    ]


async def _is_disabled(site: Site) -> bool:
    return not (await site.jetstream.configuration.get_destination(TENANT, "orders")).enabled


async def test_a_receiver_that_is_gone_disables_its_destination(site: Site, receiver: Scripted) -> None:
    """A 410 disables the destination and publishes the reason once; later deliveries are kept as skipped."""
    receiver.script = [410]
    await site.destination("orders", receiver.url)

    async with site.consumer():
        first = await site.deliver("orders")
        await until(lambda: _is_disabled(site), 10)
        second = await site.deliver("orders")
        await until(site.is_settled, 10)

    view = await site.jetstream.configuration.get_destination(TENANT, "orders")
    assert view.disabled_reason == "the receiver answered 410 Gone"
    assert [result.outcome for result in await site.results(first)] == [Outcome.FAILED]
    assert [result.code for result in await site.results(second)] == [Code.DESTINATION_DISABLED]
    assert await _events(site) == ["oneprotect.destination.disabled.v1"]
    assert len(receiver.seen) == 1


async def test_a_429_pauses_the_whole_destination(site: Site, receiver: Scripted) -> None:
    """A 429 pauses all deliveries to the destination for the requested time and uses no attempts."""
    receiver.script = [Answer(429, {"retry-after": "5"}), 200]
    async with Scripted() as other:
        await site.destination("orders", receiver.url, max_in_flight=1)
        await site.destination("other", other.url)
        async with site.consumer():
            first = await site.deliver("orders")
            await until(lambda: _rests(site), 10)
            receiver.script = [200]
            later = [await site.deliver("orders") for _ in range(5)]
            await site.deliver("other")
            await until(lambda: other.seen)
            seen_meanwhile = len(receiver.seen)
            await until(site.is_settled, 20)

    results = await site.results()
    assert seen_meanwhile == 1
    assert [r.code for r in results if r.delivery == first] == [Code.HTTP_429, Code.HTTP_2XX]
    for delivery in later:
        assert [(r.attempt, r.outcome) for r in results if r.delivery == delivery] == [(1, Outcome.DELIVERED)]
    assert receiver.seen[1].at - receiver.seen[0].at >= 2.5


async def _rests(site: Site) -> bool:
    entry = await site.jetstream.health.get(f"{TENANT}.orders")
    return entry is not None and b'"open_until":"' in (entry.value or b"")


async def test_a_failing_receiver_gets_probes_and_recovers(site: Site, receiver: Scripted) -> None:
    """The deliveries wait in the server and arrive after the recovery, which one event reports."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[0.2] * 30)

    async with site.consumer(QUICK):
        deliveries = [await site.deliver("orders") for _ in range(6)]
        await until(lambda: _rests(site), 10)
        more = [await site.deliver("orders") for _ in range(40)]
        await until(lambda: _all_scheduled(site, 46), 10)
        seen_while_dead = len(receiver.seen)
        receiver.script = [200]
        await until(site.is_settled, 30)

    delivered = {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED}
    assert delivered == {*deliveries, *more}
    assert seen_while_dead < 46, "most were never sent to a receiver that only fails"
    assert "oneprotect.destination.recovered.v1" in await _events(site)


async def _all_scheduled(site: Site, count: int) -> bool:
    waiting = [record for record in await site.records(streams.RETRIES) if ".scheduled." in record.subject]
    return len(waiting) >= count


async def test_a_destination_that_fails_for_too_long_is_disabled_after_warnings(site: Site, receiver: Scripted) -> None:
    """The destination is disabled with a reason after the warnings, and later deliveries are kept as skipped."""
    receiver.script = [500]
    policy = msgspec.structs.replace(
        QUICK, failures=1000, warn_every=timedelta(seconds=1), disable_after=timedelta(seconds=3)
    )
    await site.destination("orders", receiver.url, retry_schedule_s=[0.3] * 30)

    async with site.consumer(policy):
        await site.deliver("orders")
        await until(lambda: _is_disabled(site), 15)
        await until(site.is_settled, 15)

    events = await _events(site)
    assert 1 <= events.count("oneprotect.destination.failing.v1") <= 3
    assert events.count("oneprotect.destination.disabled.v1") == 1
    (result,) = [r for r in await site.results() if r.outcome is Outcome.SKIPPED]
    assert result.code is Code.DESTINATION_DISABLED
    assert len(await site.records(streams.FAILED)) == 1


async def test_of_all_workers_one_tries_whether_a_dead_receiver_is_back(site: Site, receiver: Scripted) -> None:
    """While one trial hangs, with two workers and much that is due, no other is made; when it succeeds, all arrives."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[0.2] * 30, timeout_s=30)

    async with site.consumer(QUICK), site.consumer(QUICK):
        deliveries = [await site.deliver("orders") for _ in range(6)]
        await until(lambda: _rests(site), 10)
        deliveries += [await site.deliver("orders") for _ in range(20)]
        await until(lambda: _all_scheduled(site, 26), 20)
        receiver.hold = asyncio.Event()
        seen_before = len(receiver.seen)
        await until(lambda: len(receiver.seen) > seen_before, 20)
        await until(lambda: _are_deferred_again(site, 8), 60)
        tried = len(receiver.seen) - seen_before
        receiver.script = [200]
        receiver.hold.set()
        await until(site.is_settled, 60)

    assert tried == 1
    assert {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED} == set(deliveries)


async def _are_deferred_again(site: Site, count: int) -> bool:
    """Return whether that many deliveries were deferred again after the pause."""
    deferrals = [int(one.headers.get(HEADER_DEFERRALS, 0)) for one in await site.records(streams.RETRIES)]
    return sum(number >= 2 for number in deferrals) >= count
