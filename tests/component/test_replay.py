"""Replay: kept deliveries are requested again, once each, and their attempts count on."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.config import Replay, ReplayFilter, ReplayState
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry


async def _fail(site: Site, receiver: Scripted, destination: str, count: int) -> list[str]:
    receiver.script = [410]
    deliveries = [await site.deliver(destination) for _ in range(count)]
    await until(lambda: _kept(site, deliveries), 20)
    return deliveries


async def _kept(site: Site, deliveries: list[str]) -> bool:
    results = await site.results()
    return {result.delivery for result in results if result.outcome is Outcome.FAILED} >= set(deliveries)


async def _replay(site: Site, chosen: ReplayFilter) -> Replay:
    replay, row = await site.jetstream.replayer.begin(TENANT, chosen, by="test")
    return await site.jetstream.replayer.run(TENANT, replay, row)


async def test_a_replayed_delivery_keeps_its_id_and_counts_its_attempts_on(site: Site, receiver: Scripted) -> None:
    """A replay delivers a failed delivery with its own id, its next attempt number, and a retry schedule afresh."""
    await site.destination("orders", receiver.url, retry_schedule_s=[0.1])
    receiver.script = [500]

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: _kept(site, [delivery]), 20)
        receiver.script = [500, 500, 500, 200]
        row = await _replay(site, ReplayFilter(destination="orders"))
        await until(lambda: len(receiver.seen) == 4, 20)
        await until(site.is_settled)

    results = await site.results(delivery)
    assert (row.replayed, row.skipped, row.state) == (1, 0, ReplayState.FINISHED)
    assert [result.attempt for result in results] == [1, 2, 3, 4]
    assert [result.outcome for result in results] == [
        Outcome.RETRY_SCHEDULED,
        Outcome.FAILED,
        Outcome.RETRY_SCHEDULED,
        Outcome.DELIVERED,
    ]
    assert [result.replay is None for result in results] == [True, True, False, False]
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1


async def test_only_what_is_still_failed_is_replayed(site: Site, receiver: Scripted) -> None:
    """A second replay leaves alone what the first one has had attempted."""
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await _fail(site, receiver, "orders", 3)
        receiver.script = [410, 200]
        first = await _replay(site, ReplayFilter())
        await until(site.is_settled, 20)
        second = await _replay(site, ReplayFilter())
        await until(site.is_settled, 20)

    assert (first.replayed, first.skipped) == (3, 0)
    assert (second.replayed, second.skipped) == (0, 3)
    assert len(receiver.seen) == 6


async def test_a_replay_takes_what_its_filter_names(site: Site, receiver: Scripted) -> None:
    """Destination, id, code and time each narrow it down."""
    await site.destination("orders", receiver.url)
    await site.destination("invoices", receiver.url)

    async with site.consumer():
        first, second = await _fail(site, receiver, "orders", 2)
        between = datetime.now(UTC)
        (third,) = await _fail(site, receiver, "invoices", 1)

    async def chosen(**conditions: object) -> set[str]:
        filter_ = msgspec.convert(conditions, ReplayFilter)
        return {kept.id async for kept in site.jetstream.replayer.kept(TENANT, filter_)}

    assert await chosen() == {first, second, third}
    assert await chosen(destination="orders") == {first, second}
    assert await chosen(ids=[second]) == {second}
    assert await chosen(ids=[second, third], destination="orders") == {second}
    assert await chosen(codes=["http.410"]) == {first, second, third}
    assert await chosen(codes=["http.5xx"]) == set()
    assert await chosen(since=between) == {third}
    assert await chosen(until=between) == {first, second}
    assert await chosen(event_types=["invoice.paid"]) == {first, second, third}
    assert await chosen(event_types=["other"]) == set()


async def test_another_tenants_deliveries_are_never_taken(site: Site, receiver: Scripted) -> None:
    """A replay of one tenant sees nothing of the others."""
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await _fail(site, receiver, "orders", 1)

    others = [kept async for kept in site.jetstream.replayer.kept("globex", ReplayFilter())]
    own = [kept async for kept in site.jetstream.replayer.kept(TENANT, ReplayFilter())]
    assert (len(others), len(own)) == (0, 1)


async def test_an_interrupted_replay_goes_on_where_it_stopped(site: Site, receiver: Scripted) -> None:
    """Cancelled in the middle and begun again with the same filter, every delivery is requested exactly once."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        deliveries = await _fail(site, receiver, "orders", 20)
    replayer = site.jetstream.replayer
    halfway = asyncio.Event()

    def on_step(row: Replay) -> None:
        if row.replayed == 10:
            halfway.set()

    replay, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    running = asyncio.create_task(replayer.run(TENANT, replay, row, rate_per_s=100, on_step=on_step))
    await halfway.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    resumed, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    done_before = row.replayed
    row = await replayer.run(TENANT, resumed, row)
    requested = await site.records(subjects.WORK)

    assert resumed == replay
    assert 10 <= done_before < 20
    assert row.replayed == 20
    assert len(requested) == 20
    assert sorted(record.headers[subjects.HEADER_MSG_ID].split(".")[2] for record in requested) == sorted(deliveries)


async def test_a_skipped_delivery_is_kept_and_can_be_replayed(site: Site, receiver: Scripted) -> None:
    """What a disabled destination did not get is delivered by a replay once it is enabled."""
    await site.destination("orders", receiver.url)
    await site.jetstream.configuration.disable_destination(TENANT, "orders", by="test")

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(site.is_settled, 20)
        assert receiver.seen == []
        await site.jetstream.configuration.enable_destination(TENANT, "orders", by="test")
        await _replay(site, ReplayFilter(codes=("destination.disabled",)))
        await until(lambda: receiver.seen, 20)
        await until(site.is_settled)

    results = await site.results(delivery)
    assert [(result.outcome, result.code) for result in results] == [
        (Outcome.SKIPPED, Code.DESTINATION_DISABLED),
        (Outcome.DELIVERED, Code.HTTP_2XX),
    ]


async def test_a_replay_is_announced(site: Site, receiver: Scripted) -> None:
    """The audit trail says who replayed how much."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        await _fail(site, receiver, "orders", 2)

    await _replay(site, ReplayFilter())

    events = [
        msgspec.json.decode(record.data)
        for record in await site.records(subjects.EVENTS)
        if record.subject.startswith("oneprotect.event.replay.")
    ]
    assert [event["type"] for event in events] == ["oneprotect.replay.started.v1", "oneprotect.replay.finished.v1"]
    assert events[1]["data"]["replayed"] == 2
    assert events[1]["data"]["by"] == "test"
