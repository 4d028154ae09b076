"""Destinations with `ordering: fifo`: one at a time, in the order of publishing, whatever fails on the way."""

import asyncio
import contextlib
import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from consumers.attempts.log import StreamAttemptLog
from consumers.destinations.circuit_breaker import HealthPolicy
from consumers.model.request import DeliveryAttemptRequest
from consumers.queues.ordered_queue import IDLE_RELEASE_S
from consumers.retention.archive import BATCH_WAIT_S
from consumers.retries.reschedule import RetryNow
from messaging import management
from messaging.client.connection import IncomingMessage
from messaging.publication import Publication
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.configuration import ReplayFilter
from schemas.events import CONTENT_TYPE, AttemptResult
from schemas.headers import HEADER_ATTEMPT, HEADER_MSG_ID
from tests.component.conftest import RunHere
from tests.support.flaky import Flaky
from tests.support.receiver import Answer, Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

LONG_S = 600.0


async def test_deliveries_come_one_at_a_time_in_their_order(site: Site, receiver: Scripted) -> None:
    """With two consumers and room for many in flight, the receiver sees the order of publishing."""
    await site.destination("orders", receiver.url, ordering="fifo", max_in_flight=8)

    async with site.consumer(), site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(60)]
        await until(site.is_settled, 20)

    assert receiver.ids() == deliveries
    assert [result.attempt for result in await site.results()] == [1] * 60


@pytest.mark.retry
async def test_order_survives_failures_overflow_and_a_killed_worker(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Order is kept with a failing receiver, a killed worker and a full work stream."""
    async with (
        Flaky(fails=30) as receiver,
        Site(tmp_path, nats_server, work_per_destination="20") as site,
        contextlib.AsyncExitStack() as running,
    ):
        await site.destination("orders", receiver.url, ordering="fifo", timeout_s=0.2, retry_schedule_s=[0.02] * 20)
        early = [await site.deliver("orders") for _ in range(60)]
        overflowed = len(await site.records(streams.OVERFLOW))
        workers = [await running.enter_async_context(site.consumer_process()) for _ in range(3)]
        late = [await site.deliver("orders") for _ in range(140)]
        await until(lambda: len(receiver.accepted) >= 40, 30)
        holder = await until(lambda: _holder(site))
        results = await site.results()
        for worker in workers:
            if worker.says(holder):
                worker.kill()
        await until(site.is_settled, 60)

    assert overflowed == 40
    assert results, "it was killed in mid-run"
    assert receiver.accepted == [*early, *late]


async def _holder(site: Site) -> str:
    entry = await site.jetstream.leases.find(f"{TENANT}.orders")
    return (entry.value or b"").decode().partition('"by":"')[2].partition('"')[0]


@pytest.mark.retry
async def test_a_failed_head_blocks_the_queue(site: Site, receiver: Scripted) -> None:
    """The head is retried on its schedule with numbered attempts, and no delivery overtakes it."""
    receiver.script = [500, Answer(503, {"retry-after": "1"}), 200]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[0.2, 0.2])

    async with site.consumer(), site.consumer():
        first, second = await site.deliver("orders"), await site.deliver("orders")
        await until(site.is_settled, 20)

    results = await site.results()
    assert receiver.ids() == [first] * 3 + [second] * 3
    assert [(r.delivery, r.attempt) for r in results] == [(d, n) for d in (first, second) for n in (1, 2, 3)]
    assert [r.outcome for r in results[:3]] == [Outcome.RETRY_SCHEDULED, Outcome.RETRY_SCHEDULED, Outcome.DELIVERED]
    assert receiver.seen[2].at - receiver.seen[1].at >= 0.95, "Retry-After is the earliest time"
    assert await site.records(streams.RETRIES) == []


@pytest.mark.retry
async def test_an_exhausted_head_is_kept_and_the_next_one_follows(site: Site, receiver: Scripted) -> None:
    """The head leaves the queue after its last attempt, complete and replayable."""
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[0.05])
    receiver.script = [500]

    async with site.consumer():
        first = await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 2, 10)
        receiver.script = [200]
        second = await site.deliver("orders")
        await until(site.is_settled, 10)

    (kept,) = await site.records(streams.FAILED)
    assert receiver.ids() == [first, first, second]
    assert kept.subject == subjects.failed(TENANT, "orders", first)
    assert kept.headers[HEADER_ATTEMPT] == "2"
    assert b'"payload":{"n": 1}' in kept.data


async def test_an_unreadable_head_leaves_the_queue(site: Site, receiver: Scripted) -> None:
    """A poison message is quarantined unchanged, and the next delivery follows."""
    await site.destination("orders", receiver.url, ordering="fifo")
    await site.publish("orders", b"{nonsense", "dlv_0")
    good = await site.deliver("orders")

    async with site.consumer():
        await until(site.is_settled, 10)

    (kept,) = await site.records(streams.QUARANTINE)
    assert kept.data == b"{nonsense"
    assert receiver.ids() == [good]


@pytest.mark.retry
async def test_a_head_that_waits_for_its_secret_continues_when_it_is_available(
    tmp_path: Path, nats_server: EmbeddedNats
) -> None:
    """Both deliveries arrive in order as soon as the credential is configured, ten minutes before the next retry."""
    async with Scripted() as receiver, Site(tmp_path, nats_server, secret_retry_schedule_s=str(LONG_S)) as site:
        manifest = site.directory / "secrets" / "webhooks" / "signing-key.json"
        content = manifest.read_bytes()
        manifest.unlink()
        await site.destination("orders", receiver.url, ordering="fifo")
        async with site.consumer(), site.consumer():
            deliveries = [await site.deliver("orders") for _ in range(2)]
            await until(lambda: site.results(deliveries[0]), 10)
            manifest.write_bytes(content)
            await site.jetstream.connection.ask(subjects.CHECK, b'{"tenant":"acme","credential":"key"}')
            await until(site.is_settled, 10)
        results = await site.results(deliveries[0])

    assert receiver.ids() == deliveries
    assert [(r.attempt, r.code) for r in results] == [(1, Code.SECRET_NOT_FOUND), (1, Code.HTTP_2XX)]


@pytest.mark.retry
async def test_a_retry_request_makes_the_head_due(site: Site, receiver: Scripted) -> None:
    """`retry` of the head starts its next attempt at once; `retry` of a later delivery has no effect."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[LONG_S])
    hurry = RetryNow(site.jetstream.connection, site.jetstream.publisher)

    async with site.consumer():
        delivery, behind = await site.deliver("orders"), await site.deliver("orders")
        await until(lambda: site.results(delivery), 10)
        receiver.script = [200]
        nothing = await hurry.retry(TENANT, behind)
        called = await hurry.retry(TENANT, delivery)
        await until(site.is_settled, 10)

    assert (nothing, called) == ((), ("orders",))
    assert receiver.ids() == [delivery, delivery, behind]
    assert [r.attempt for r in await site.results(delivery)] == [1, 2]


@pytest.mark.retry
async def test_a_head_keeps_its_place_and_its_attempts_when_its_consumer_stops(site: Site, receiver: Scripted) -> None:
    """The next consumer finds on record which attempt is next, and when, and does not begin too early."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[3])

    async with site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(2)]
        await until(lambda: site.results(deliveries[0]), 10)
    receiver.script = [200]
    async with site.consumer():
        await until(site.is_settled, 15)

    results = await site.results()
    assert receiver.ids() == [deliveries[0], *deliveries]
    assert [(r.delivery, r.attempt) for r in results] == [(deliveries[0], 1), (deliveries[0], 2), (deliveries[1], 1)]
    assert receiver.seen[1].at - receiver.seen[0].at >= 2.9


async def test_a_429_pauses_the_ordered_queue(site: Site, receiver: Scripted) -> None:
    """A 429 pauses the queue for the requested time, uses no later attempts and keeps the order."""
    receiver.script = [Answer(429, {"retry-after": "2"}), 200]
    await site.destination("orders", receiver.url, ordering="fifo")

    async with site.consumer():
        first = await site.deliver("orders")
        await until(lambda: receiver.seen, 10)
        receiver.script = [200]
        others = [await site.deliver("orders") for _ in range(3)]
        await until(site.is_settled, 20)

    assert receiver.ids() == [first, first, *others]
    assert receiver.seen[1].at - receiver.seen[0].at >= 1.9
    assert [r.attempt for r in await site.results() if r.delivery != first] == [1, 1, 1]


async def test_a_failing_receiver_gets_probes_and_order_is_kept(site: Site, receiver: Scripted) -> None:
    """The ordered queue pauses and probes like any destination, and delivers in order after the recovery."""
    policy = HealthPolicy(
        failures=2, failing_for=timedelta(0), open_for=timedelta(seconds=1), max_open_for=timedelta(seconds=1)
    )
    receiver.script = [500]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[0.05] * 30)

    async with site.consumer(policy):
        deliveries = [await site.deliver("orders") for _ in range(10)]
        await until(lambda: _rests(site), 10)
        receiver.script = [200]
        await until(site.is_settled, 20)

    assert list(dict.fromkeys(receiver.ids())) == deliveries
    assert await site.records(streams.RETRIES) == []


async def _rests(site: Site) -> bool:
    entry = await site.jetstream.health.get(f"{TENANT}.orders")
    return entry is not None and b'"open_until":"' in (entry.value or b"")


@pytest.mark.serial
async def test_an_ordered_queue_keeps_its_rate(site: Site, receiver: Scripted) -> None:
    """Ten a second means ten deliveries a second; wake-ups of the queue do not count."""
    await site.destination("orders", receiver.url, ordering="fifo", rate_per_s=10)

    async with site.consumer(), site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(21)]
        await until(site.is_settled, 20)

    took_s = receiver.seen[-1].at - receiver.seen[0].at
    assert receiver.ids() == deliveries
    assert 1.7 <= took_s <= 3.5


async def test_deliveries_skipped_while_disabled_are_replayed_in_order(site: Site, receiver: Scripted) -> None:
    """A replay requests skipped deliveries in their order, behind the queued ones."""
    configuration = site.jetstream.configuration
    await site.destination("orders", receiver.url, ordering="fifo")
    await configuration.disable_destination(TENANT, "orders", by="test")

    async with site.consumer(), site.consumer():
        skipped = [await site.deliver("orders") for _ in range(10)]
        await until(site.is_settled, 10)
        await configuration.enable_destination(TENANT, "orders", by="test")
        chosen = ReplayFilter(destination="orders")
        replay, row = await site.jetstream.replayer.begin(TENANT, chosen, by="test")
        await site.jetstream.replayer.run(TENANT, replay, row)
        await until(site.is_settled, 10)

    results = await site.results()
    assert receiver.ids() == skipped
    assert [r.delivery for r in results if r.outcome is Outcome.SKIPPED] == skipped
    assert [(r.attempt, r.replay) for r in results if r.outcome is Outcome.DELIVERED] == [(2, replay)] * 10


async def test_ordering_can_be_switched_under_load(site: Site, receiver: Scripted) -> None:
    """All deliveries arrive, and the order is kept only while ordering is enabled."""
    deliveries: list[str] = []
    await site.destination("orders", receiver.url)

    async with site.consumer(), site.consumer():
        for number in range(6):
            await site.destination("orders", receiver.url, ordering=("fifo", "any")[number % 2])
            deliveries += [await site.deliver("orders") for _ in range(40)]
        await until(site.is_settled, 30)
        await site.destination("orders", receiver.url, ordering="fifo")
        in_order = [await site.deliver("orders") for _ in range(40)]
        await until(site.is_settled, 30)

    ids = receiver.ids()
    assert set(ids) == {*deliveries, *in_order}
    assert [one for one in ids if one in set(in_order)] == in_order
    delivered = [r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED]
    assert set(delivered) == set(ids)
    assert len(ids) <= len(set(ids)) + 2 * 8, "no more than what was in flight may have come twice"


@pytest.mark.retry
async def test_an_earlier_retry_joins_the_ordered_queue_when_due(site: Site, receiver: Scripted) -> None:
    """A retry scheduled before ordering was enabled keeps its attempt count and joins at the end."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[1.5])

    async with site.consumer():
        early = await site.deliver("orders")
        await until(lambda: site.records(streams.RETRIES), 10)
        receiver.script = [200]
        await site.destination("orders", receiver.url, ordering="fifo")
        late = [await site.deliver("orders") for _ in range(3)]
        await until(site.is_settled, 20)

    assert receiver.ids() == [early, *late, early]
    assert [r.attempt for r in await site.results(early)] == [1, 2]


async def test_a_moved_but_not_removed_delivery_is_delivered_once(site: Site, receiver: Scripted) -> None:
    """A worker's death between move and removal causes no duplicate, even after the duplicate window."""
    config = (await site.jetstream.connection.api(f"STREAM.INFO.{streams.ORDERED.name}"))["config"]
    await site.jetstream.connection.api(f"STREAM.UPDATE.{config['name']}", config | {"duplicate_window": 100_000_000})
    await site.destination("orders", receiver.url, ordering="fifo")
    deliveries = [await site.deliver("orders") for _ in range(5)]
    for delivery in deliveries[:2]:
        copy = Publication(
            subjects.ordered(TENANT, "orders"),
            document("orders", delivery=delivery),
            {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", delivery), "content-type": CONTENT_TYPE},
        )
        await site.jetstream.publisher.publish(copy)
    probe = Publication(subjects.ordered(TENANT, "probe"), document("probe"), {HEADER_MSG_ID: "probe"})
    await site.jetstream.publisher.publish(probe)
    await until(lambda: _is_forgotten(site, probe))

    async with site.consumer():
        await until(site.is_settled, 10)

    assert receiver.ids() == deliveries
    assert [r.outcome for r in await site.results(deliveries[0])][:2] == [Outcome.DELIVERED, Outcome.SUPPRESSED]


async def _is_forgotten(site: Site, probe: Publication) -> bool:
    return not (await site.jetstream.publisher.publish(probe)).duplicate


@pytest.mark.retry
async def test_queues_whose_heads_wait_ask_the_server_nothing(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A tenant with thousands of them fills no queue of management requests, and writes a lease now and then."""
    count, asked = 20, list[str]()

    async def listen(incoming: IncomingMessage) -> None:
        asked.append(incoming.subject)

    async with Scripted([500]) as receiver, Site(tmp_path, nats_server, ack_wait_s="30") as site:
        for number in range(count):
            await site.destination(f"d{number}", receiver.url, ordering="fifo", retry_schedule_s=[LONG_S])
        async with site.consumer():
            for number in range(count):
                await site.deliver(f"d{number}")
            await until(lambda: _are_results(site, count), 20)
            connection = site.jetstream.connection
            for request in ("CONSUMER.INFO", "CONSUMER.CREATE"):
                await connection.subscribe(f"$JS.API.{request}.{streams.ORDERED.name}.>", listen)
            before = await _lease_writes(site)
            await asyncio.sleep(IDLE_RELEASE_S + 4)
            writes = await _lease_writes(site) - before

    assert asked == []
    assert count <= writes <= 6 * count


async def _are_results(site: Site, count: int) -> bool:
    return len(await site.results()) == count


async def _lease_writes(site: Site) -> int:
    return (await management.stream_info(site.jetstream.connection, f"KV_{streams.LEASES.name}")).state.last_seq


async def test_a_worker_serves_a_bounded_number_of_queues_of_a_tenant(site: Site, receiver: Scripted) -> None:
    """Further queues wait, with all they have, and other destinations do not notice."""
    site.settings = site.load(tenant_max_ordered="2")
    for name in ("a", "b", "c", "d"):
        await site.destination(name, receiver.url + f"/{name}", ordering="fifo", retry_schedule_s=[LONG_S])
    async with Scripted() as other, site.consumer():
        await site.destination("other", other.url)
        receiver.script = [500]
        for name in ("a", "b", "c", "d"):
            await site.deliver(name)
        await until(lambda: _are_results(site, 2), 10)
        await site.deliver("other")
        await until(lambda: other.seen)
        consumers = await management.consumer_names(site.jetstream.connection, streams.ORDERED.name)
        waiting = {subjects.tenant_and_destination(record.subject)[1] for record in await site.records(streams.WORK)}

    served = {seen.path.rpartition("/")[2] for seen in receiver.seen}
    assert len(served) == len(consumers) == 2
    assert waiting - {"other"} == {"a", "b", "c", "d"} - served, "nothing is lost"


async def test_an_ordered_queue_does_not_delay_other_destinations(site: Site, receiver: Scripted) -> None:
    """A head that waits for minutes does not delay the tenant's other destinations."""
    receiver.script = [500]
    async with Scripted() as other:
        await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[LONG_S])
        await site.destination("other", other.url)
        async with site.consumer():
            for _ in range(20):
                await site.deliver("orders")
            await until(lambda: receiver.seen, 10)
            deliveries = [await site.deliver("other") for _ in range(20)]
            await until(lambda: len(other.seen) == 20)

    assert sorted(other.ids()) == sorted(deliveries)
    assert len(receiver.seen) == 1


async def test_an_ordered_queue_does_not_wait_for_a_batch(site: Site, receiver: Scripted) -> None:
    """Each result is stored before the next delivery begins, without waiting for a batch."""
    await site.destination("orders", receiver.url, ordering="fifo")

    async with site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(100)]
        await until(site.is_settled, 20)

    gaps_s = [after.at - before.at for before, after in itertools.pairwise(receiver.seen)]
    assert receiver.ids() == deliveries
    assert min(gaps_s) < BATCH_WAIT_S, "each would have waited for so long; on a busy machine some take longer"


async def test_the_command_line_sets_and_shows_ordering(receiver: Scripted, oneprotect: RunHere) -> None:
    """`--ordering fifo` is stored and shown by get and list; other values are refused without an echo."""
    arguments = ("destination", "set", "orders", "--tenant", TENANT, "--url", receiver.url, "--credential", "key")

    made = await oneprotect(*arguments, "--ordering", "fifo", "--json")
    shown = await oneprotect("destination", "get", "orders", "--tenant", TENANT)
    listed = await oneprotect("destination", "list", "--tenant", TENANT)
    refused = await oneprotect(*arguments, "--ordering", "sometimes")
    plain = await oneprotect(*arguments, "--json")

    assert (made.code, made.json["ordering"]) == (0, "fifo")
    assert "fifo" in shown.out
    assert "fifo" in listed.out
    assert refused.code == 2
    assert "ordering" in refused.err
    assert "sometimes" not in refused.err
    assert plain.json["ordering"] == "any"


async def test_a_head_that_comes_again_while_it_is_sent_is_not_sent_again(
    site: Site, receiver: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is read after its attempt has ended: what was read before lacks the result."""
    receiver.hold = asyncio.Event()
    is_read, may_end, read = asyncio.Event(), asyncio.Event(), StreamAttemptLog.read_results
    await site.destination("orders", receiver.url, ordering="fifo")

    async def read_slowly(log: StreamAttemptLog, delivery: DeliveryAttemptRequest) -> list[AttemptResult]:
        found = await read(log, delivery)
        if receiver.seen:
            is_read.set()
            await may_end.wait()
        return found

    monkeypatch.setattr(StreamAttemptLog, "read_results", read_slowly)
    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: receiver.seen)
        (record,) = await site.records(streams.ORDERED)
        consumer = streams.ordered_consumer(TENANT, "orders")
        reply = f"$JS.ACK.{streams.ORDERED.name}.{consumer}.1.{record.sequence}.1.1.0"
        site.jetstream.connection.post(reply, b"-NAK")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(is_read.wait(), 1)
        receiver.hold.set()
        await until(lambda: _is_recorded(site))
        may_end.set()
        await until(site.is_settled, 20)

    assert len(receiver.seen) == 1
    assert {result.outcome for result in await site.results()} <= {Outcome.DELIVERED, Outcome.SUPPRESSED}


async def _is_recorded(site: Site) -> bool:
    return bool(await site.results())
