"""Replay: kept deliveries are requested again, once each, and their attempts count on."""

import asyncio
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from consumers.replay.source import SupersededIndex
from consumers.replay.store import ReplayEnded, UnknownReplay
from consumers.retention.retained import RetainedDelivery
from messaging.publication import Publication
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.configuration import Replay, ReplayFilter, ReplayState
from schemas.events import AttemptResult, decode_request
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_MSG_ID,
    HEADER_REPLAY,
    HEADER_REPLAY_FROM,
    HEADER_SCHEDULE,
    HEADER_SCHEDULE_TARGET,
)
from tests.support.cluster import lag_behind
from tests.support.receiver import Scripted
from tests.support.retained_deliveries import keep, record, requested, waiting
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

pytestmark = pytest.mark.retry


async def _fail(site: Site, receiver: Scripted, destination: str, count: int) -> list[str]:
    receiver.script = [410]
    deliveries = [await site.deliver(destination) for _ in range(count)]
    await until(lambda: _kept(site, deliveries), 20)
    return deliveries


async def _kept(site: Site, deliveries: list[str]) -> bool:
    return {decode_request(record.data).id for record in await site.records(streams.FAILED)} >= set(deliveries)


async def _replay(site: Site, chosen: ReplayFilter) -> Replay:
    replay, row = await site.jetstream.replayer.begin(TENANT, chosen, by="test")
    return await site.jetstream.replayer.run(TENANT, replay, row)


async def test_a_replayed_delivery_keeps_its_id_and_counts_its_attempts_on(site: Site, receiver: Scripted) -> None:
    """A replay keeps the delivery id, continues the attempt numbers and restarts the retry schedule."""
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


async def test_live_deliveries_pass_a_replay_of_their_destination(site: Site, receiver: Scripted) -> None:
    """A replay of hundreds runs in the gaps: neither the queue of the destination nor its room in the stream fills."""
    await site.destination("orders", receiver.url, max_in_flight=1)
    replayed = await keep(site, 400)
    receiver.hold = asyncio.Event()

    async with site.consumer():
        await _replay(site, ReplayFilter())
        await until(lambda: receiver.seen)
        live = [await site.deliver("orders") for _ in range(3)]
        receiver.hold.set()
        await until(lambda: len(receiver.seen) == 403, 30)

    places = [receiver.ids().index(delivery) for delivery in live]
    assert places == sorted(places)
    assert places[-1] < 50
    assert set(receiver.ids()) == {*live, *replayed}


async def test_a_replay_of_an_old_delivery_waits_for_its_secret(site: Site, receiver: Scripted) -> None:
    """A replayed delivery that failed days ago does not fail at the first missing secret."""
    await site.jetstream.configuration.set_credential(
        TENANT, "later", {"secret_ref": "k8s://webhooks/not-there-yet/signing"}, by="test"
    )
    await site.destination("orders", receiver.url, credential="later")
    headers = {
        HEADER_ATTEMPT: "9",
        HEADER_REPLAY: "rpl-1",
        HEADER_REPLAY_FROM: "9",
        HEADER_FIRST_ATTEMPT_AT: (datetime.now(UTC) - timedelta(days=10)).isoformat(),
    }

    async with site.consumer():
        await site.publish("orders", document("orders", delivery="dlv_old"), "dlv_old", **headers)
        results = await until(lambda: _two_looks(site), 20)

    assert {(result.attempt, result.outcome) for result in results} == {(9, Outcome.RETRY_SCHEDULED)}
    assert {result.code for result in results} == {Code.SECRET_NOT_FOUND}


async def _two_looks(site: Site) -> list[AttemptResult]:
    results = await site.results("dlv_old")
    return results if len(results) >= 2 else []


async def test_only_deliveries_that_are_still_failed_are_replayed(site: Site, receiver: Scripted) -> None:
    """A second replay skips deliveries that the first one has caused to be attempted."""
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


async def test_a_replay_selects_by_its_filter(site: Site, receiver: Scripted) -> None:
    """Destination, id, code and time each restrict the selection."""
    await site.destination("orders", receiver.url)
    await site.destination("invoices", receiver.url)

    async with site.consumer():
        first, second = await _fail(site, receiver, "orders", 2)
        between = datetime.now(UTC)
        (third,) = await _fail(site, receiver, "invoices", 1)

    async def chosen(**conditions: object) -> set[str]:
        filter_ = msgspec.convert(conditions, ReplayFilter)
        return {kept.id async for kept in site.jetstream.replayer.find_deliveries(TENANT, filter_)}

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


async def test_another_tenants_deliveries_are_never_replayed(site: Site, receiver: Scripted) -> None:
    """A replay of one tenant sees no deliveries of another."""
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await _fail(site, receiver, "orders", 1)

    others = [kept async for kept in site.jetstream.replayer.find_deliveries("globex", ReplayFilter())]
    own = [kept async for kept in site.jetstream.replayer.find_deliveries(TENANT, ReplayFilter())]
    assert (len(others), len(own)) == (0, 1)


async def test_an_interrupted_replay_continues(site: Site, receiver: Scripted) -> None:
    """A cancelled replay that starts again with the same filter requests each delivery exactly once."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        deliveries = await _fail(site, receiver, "orders", 20)
    replayer = site.jetstream.replayer
    halfway = asyncio.Event()

    replay, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    running = asyncio.create_task(replayer.run(TENANT, replay, row, rate_per_s=100, on_step=_at(10, halfway)))
    await halfway.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    resumed, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    done_before = row.replayed
    row = await replayer.run(TENANT, resumed, row)
    requested = await site.records(streams.WORK)

    assert resumed == replay
    assert 10 <= done_before < 20
    assert row.replayed == 20
    assert len(requested) == 20
    assert sorted(record.headers[HEADER_MSG_ID].split(".")[2] for record in requested) == sorted(deliveries)


async def test_a_skipped_delivery_is_kept_and_can_be_replayed(site: Site, receiver: Scripted) -> None:
    """A replay delivers skipped deliveries once their destination is enabled."""
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


async def test_a_replay_is_announced(site: Site) -> None:
    """The audit trail has the actor and the count of the replay."""
    await keep(site, 2)

    await _replay(site, ReplayFilter())

    started, finished = await _events(site)
    assert (started["type"], finished["type"]) == ("oneprotect.replay.started.v1", "oneprotect.replay.finished.v1")
    assert (started["data"]["state"], started["data"]["by"]) == ("running", "test")
    assert finished["data"] == {
        "replay": started["data"]["replay"], "by": "test", "address": None,
        "replayed": 2, "skipped": 0, "state": "finished"
    }  # fmt: skip


async def test_successive_replays_request_once(site: Site) -> None:
    """A replay skips deliveries that an earlier one requested and that are not attempted yet."""
    await site.jetstream.connection.api(f"STREAM.UPDATE.{streams.WORK.name}", await _capped(site, 5))
    orders = await keep(site, 20)
    invoices = await keep(site, 3, destination="invoices")

    first = await _replay(site, ReplayFilter(destination="orders"))
    overflowed = await site.records(streams.OVERFLOW)
    second = await _replay(site, ReplayFilter())
    third = await _replay(site, ReplayFilter(ids=(orders[0], orders[19])))

    assert len(overflowed) == 15
    assert [(row.replayed, row.skipped) for row in (first, second, third)] == [(20, 0), (3, 20), (0, 2)]
    assert await requested(site) == sorted(orders + invoices)


async def test_what_a_lagging_replica_does_not_know_is_not_requested_again(site: Site) -> None:
    """Its deliveries were attempted since. About half of the reads are answered by that replica."""
    await lag_behind(site)
    deliveries = await keep(site, 10)
    for delivery in deliveries:
        await record(site, delivery, attempt=9)
    await until(lambda: _is_lagging(site, 10))

    rows = [await _replay(site, ReplayFilter()) for _ in range(8)]

    assert {(row.replayed, row.skipped) for row in rows} == {(0, 10)}
    assert await requested(site) == []


async def _is_lagging(site: Site, count: int) -> bool:
    return len(await site.records(streams.ATTEMPTS)) < count


async def test_concurrent_replays_request_once(site: Site) -> None:
    """Concurrent replays run one at a time and request each delivery once."""
    deliveries = await keep(site, 300)
    filters = [ReplayFilter(), ReplayFilter(destination="orders"), ReplayFilter(codes=("http.5xx",)), ReplayFilter()]
    waited: list[str] = []

    async def replay(chosen: ReplayFilter) -> Replay:
        replay, row = await site.jetstream.replayer.begin(TENANT, chosen, by="test")
        return await site.jetstream.replayer.run(
            TENANT, replay, row, on_wait=lambda holder: waited.append(holder.replay)
        )

    rows = await asyncio.gather(*map(replay, filters))

    assert sum(row.replayed for row in rows) == 300
    assert {row.replayed + row.skipped for row in rows} == {300}
    assert {row.state for row in rows} == {ReplayState.FINISHED}
    assert len(waited) >= 3
    assert await requested(site) == sorted(deliveries)


@pytest.mark.parametrize("waits_on", ["scheduled", "due"])
async def test_a_deferred_request_is_not_replayed(site: Site, waits_on: str) -> None:
    """A replay recognizes a request that was deferred without an attempt."""
    waiting, other = await keep(site, 2)
    put_off = {"scheduled": subjects.scheduled(TENANT, "orders", waiting), "due": subjects.due(TENANT, "orders")}
    schedule = {
        HEADER_SCHEDULE: f"@at {(datetime.now(UTC) + timedelta(hours=1)).isoformat()[:19]}Z",
        HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders"),
    }
    headers = {HEADER_ATTEMPT: "9"} | (schedule if waits_on == "scheduled" else {})
    await site.jetstream.publisher.publish(
        Publication(put_off[waits_on], document("orders", delivery=waiting), headers)
    )

    row = await _replay(site, ReplayFilter())

    assert (row.replayed, row.skipped) == (1, 1)
    assert await requested(site) == [other]


async def test_later_attempts_are_those_of_the_same_delivery(site: Site) -> None:
    """The same id to another destination, an earlier attempt, and one without a number supersede nothing."""
    (superseded,) = await keep(site, 1)
    (elsewhere,) = await keep(site, 1)
    (earlier,) = await keep(site, 1)
    await record(site, superseded, attempt=9)
    await record(site, elsewhere, attempt=9, destination="invoices")
    await record(site, earlier, attempt=8)
    await site.deliver("orders", delivery=earlier)  # its producer asks for it once more

    kept = [kept async for kept in site.jetstream.replayer.find_deliveries(TENANT, ReplayFilter())]

    assert {one.id for one in kept if one.superseded} == {superseded}
    assert {one.id for one in kept if not one.superseded} == {elsewhere, earlier}


async def test_a_delivery_stored_twice_is_requested_once(site: Site) -> None:
    """An attempt that a dying consumer stored twice is requested once."""
    (delivery,) = await keep(site, 1)
    await keep(site, 1, delivery=delivery)
    await keep(site, 1, delivery=delivery, destination="invoices")

    row = await _replay(site, ReplayFilter())

    assert row.replayed + row.skipped == 3
    assert await requested(site) == [delivery, delivery]
    assert {one.subject for one in await waiting(site)} == {
        subjects.requested(TENANT, "orders"),
        subjects.requested(TENANT, "invoices"),
    }


@pytest.mark.serial
@pytest.mark.parametrize("rate_per_s", [50, 1000])
async def test_a_rate_is_kept(site: Site, rate_per_s: int) -> None:
    """A replay requests deliveries evenly, within five percent of its rate."""
    count = rate_per_s // 2
    await keep(site, count + 1)
    replay, row = await site.jetstream.replayer.begin(TENANT, ReplayFilter(), by="test")

    await site.jetstream.replayer.run(TENANT, replay, row, rate_per_s=rate_per_s)

    times = sorted(one.stored_at for one in await waiting(site))
    measured = count / (times[-1] - times[0]).total_seconds()
    halfway = (times[count // 2] - times[0]) / (times[-1] - times[0])
    assert measured == pytest.approx(rate_per_s, rel=0.05)
    assert halfway == pytest.approx(0.5, abs=0.1)


async def test_a_cancelled_replay_stops_long_before_its_end(site: Site) -> None:
    """Another process can cancel a replay; its requests count, and the audit trail names both actors."""
    await keep(site, 400)
    replayer = site.jetstream.replayer
    halfway = asyncio.Event()
    replay, row = await replayer.begin(TENANT, ReplayFilter(), by="ann")
    running = asyncio.create_task(replayer.run(TENANT, replay, row, rate_per_s=100, on_step=_at(21, halfway)))
    await halfway.wait()

    cancelled = await replayer.cancel(TENANT, replay, by="bob")
    ran = await running

    started, *ended = await _events(site)
    count = len(await waiting(site))
    assert 20 < count < 300
    assert ran == cancelled
    assert (ran.state, ran.cancelled_by, ran.replayed) == (ReplayState.CANCELLED, "bob", count)
    assert started["data"]["by"] == "ann"
    assert [(event["data"]["by"], event["data"]["state"], event["data"]["replayed"]) for event in ended] == [
        ("bob", "cancelled", count)
    ]
    with pytest.raises(ReplayEnded, match="cancelled already"):
        await replayer.resume(TENANT, replay)
    with pytest.raises(ReplayEnded, match="cancelled already"):
        await replayer.cancel(TENANT, replay, by="bob")


async def test_a_waiting_replay_can_be_cancelled(site: Site) -> None:
    """A cancelled waiting replay requests nothing, and the running one continues."""
    deliveries = await keep(site, 30)
    replayer = site.jetstream.replayer
    waits = asyncio.Event()
    one, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    running = asyncio.create_task(replayer.run(TENANT, one, row, rate_per_s=40))
    await until(lambda: replayer.find_running(TENANT))
    other, row = await replayer.begin(TENANT, ReplayFilter(destination="orders"), by="test")
    waiting_ = asyncio.create_task(replayer.run(TENANT, other, row, on_wait=lambda _: waits.set()))
    await waits.wait()

    await replayer.cancel(TENANT, other, by="test")

    assert (await waiting_).state is ReplayState.CANCELLED
    assert (await running).replayed == 30
    assert await requested(site) == sorted(deliveries)


async def test_an_unknown_replay_is_not_found(site: Site) -> None:
    """Cancelling an unknown replay or one of another tenant fails."""
    replay, row = await site.jetstream.replayer.begin(TENANT, ReplayFilter(), by="test")
    await site.jetstream.replayer.run(TENANT, replay, row)

    assert list(await site.jetstream.replayer.list(TENANT)) == [replay]
    for tenant, name in ((TENANT, "rpl-none"), ("globex", replay)):
        with pytest.raises(UnknownReplay):
            await site.jetstream.replayer.cancel(tenant, name, by="test")


async def test_a_replay_survives_a_server_restart(site: Site) -> None:
    """The replay continues after the server was killed and restarted, and requests each delivery once."""
    deliveries = await keep(site, 200)
    replayer = site.jetstream.replayer
    halfway = asyncio.Event()
    replay, row = await replayer.begin(TENANT, ReplayFilter(), by="test")
    running = asyncio.create_task(replayer.run(TENANT, replay, row, rate_per_s=200, on_step=_at(51, halfway)))
    await halfway.wait()

    await site.server.kill()
    await site.server.restart()

    row = await running
    assert (row.replayed, row.skipped, row.state) == (200, 0, ReplayState.FINISHED)
    assert await requested(site) == sorted(deliveries)


def test_memory_is_bounded_by_the_selected_deliveries() -> None:
    """A hundred thousand attempts of other deliveries use no memory."""
    wanted = RetainedDelivery(
        id="dlv_1", tenant=TENANT, destination="orders", event_type="a", code="http.5xx", outcome="failed", attempt=8,
        sequence=1, stored_at=datetime.now(UTC),
    )  # fmt: skip
    later = SupersededIndex([wanted], "rpl-1")
    later.record_attempt(wanted.key, 9, "rpl-1")
    peaks: list[int] = []
    for _ in range(3):  # another thread may allocate meanwhile
        tracemalloc.start()
        for number in range(100_000):
            later.record_attempt(f"orders.other_{number}", 9, "rpl-1")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert min(peaks) < 10_000
    assert (later.is_superseded(wanted), later.is_requested_by_replay(wanted)) == (True, True)


def _at(count: int, reached: asyncio.Event) -> Callable[[Replay], None]:
    """Sets the event when so many have been replayed."""

    def on_step(row: Replay) -> None:
        if row.replayed == count:
            reached.set()

    return on_step


async def _events(site: Site) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(record.data)
        for record in await site.records(streams.EVENTS)
        if record.subject.startswith("oneprotect.event.replay.")
    ]


async def _capped(site: Site, cap: int) -> dict[str, Any]:
    config = (await site.jetstream.connection.api(f"STREAM.INFO.{streams.WORK.name}"))["config"]
    return {**config, "max_msgs_per_subject": cap}
