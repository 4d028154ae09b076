"""The overflow feeder: refused messages return in order and once, even if a feeder dies."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from consumers.destinations.directory import ConfigurationDirectory
from consumers.queues.overflow_feeder import BATCH, MAX_FED, OverflowFeeder
from messaging.client.errors import SUBJECT_FULL, RejectedByServer, ServerUnavailable
from messaging.lease import TTL_S, Lease, LeaseHolder
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.headers import HEADER_MSG_ID, HEADER_SINCE
from tests.support.receiver import HANG, Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

CAP = 16


@pytest.fixture
async def site(tmp_path: Path, nats_server: EmbeddedNats) -> AsyncGenerator[Site]:
    """A site whose work stream accepts ten messages per destination."""
    async with Site(tmp_path, nats_server, work_per_destination=str(CAP)) as opened:
        yield opened


def _feeder(
    site: Site,
    worker: str,
    *,
    closed: tuple[str, ...] = (),
    interval_s: float = 1.0,
    work_per_tenant: int = MAX_FED,
    publisher: JetStreamPublisher | None = None,
) -> OverflowFeeder:
    jetstream = site.jetstream
    return OverflowFeeder(
        jetstream.connection,
        publisher or jetstream.publisher,
        leases=jetstream.leases,
        directory=ConfigurationDirectory(jetstream.destinations, jetstream.credentials),
        worker=worker,
        is_circuit_open=lambda _tenant, destination: destination in closed,
        on_ordered=lambda _tenant, _destination: None,
        work_per_tenant=work_per_tenant,
        interval_s=interval_s,
    )


async def _overflow(site: Site, destination: str, count: int) -> list[str]:
    """Fill the work stream and put `count` messages into the overflow; return those in order."""
    deliveries = [await site.deliver(destination) for _ in range(CAP + count)]
    return deliveries[CAP:]


async def _take(site: Site, destination: str) -> list[str]:
    """Consume all messages due for a destination and return them in order."""
    subject = subjects.requested(TENANT, destination)
    due = [record for record in await site.records(streams.WORK) if record.subject == subject]
    await site.jetstream.connection.api(f"STREAM.PURGE.{streams.WORK.name}", {"filter": subject})
    return [record.headers[HEADER_MSG_ID].rpartition(".")[2] for record in due]


async def test_the_overflow_returns_in_order_while_there_is_room(site: Site) -> None:
    """Each round fills three quarters of the room with the oldest messages, and feeds none while it is full."""
    waiting = await _overflow(site, "orders", 25)
    feeder = _feeder(site, "one")
    await feeder.feed()
    fed_while_full = feeder.moved
    came: list[str] = []
    await _take(site, "orders")
    for _ in range(4):
        await feeder.feed()
        came += await _take(site, "orders")

    assert fed_while_full == 0
    assert came == waiting
    assert await site.waiting() == 0


async def test_a_fed_message_keeps_its_body_its_id_and_its_portable_headers(site: Site) -> None:
    """The feeder changes no byte of the body, and drops the producer's other headers and the server's."""
    for _ in range(CAP):
        await site.deliver("orders")
    sent = document("orders", delivery="dlv_x")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    await site.publish("orders", sent, "dlv_x", traceparent=trace, **{"X-Foo": "1", "Oneprotect-Reason": "1"})
    (before,) = await site.records(streams.OVERFLOW)
    await _take(site, "orders")
    await _feeder(site, "one").feed()

    (after,) = await site.records(streams.WORK)
    added = {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
    }
    portable = ("traceparent", "content-type", "Nats-Msg-Id")
    assert after.data == sent
    assert {name: value for name, value in after.headers.items() if name not in added} == {
        name: before.headers[name] for name in portable
    } | {HEADER_SINCE: before.stored_at.isoformat()}


async def test_several_feeders_feed_each_message_once(site: Site) -> None:
    """Several feeders share the destinations, and each message returns once in its order."""
    names = [f"d{number}" for number in range(6)]
    waiting = {name: await _overflow(site, name, 30) for name in names}
    feeders = [_feeder(site, f"worker-{number}") for number in range(3)]
    came: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        await _take(site, name)

    async def drained() -> bool:
        await asyncio.gather(*(feeder.feed() for feeder in feeders))
        for name in names:
            came[name] += await _take(site, name)
        return await site.waiting() == 0

    await until(drained, 20)

    assert came == waiting
    assert sum(feeder.moved for feeder in feeders) == 6 * 30


async def test_a_dead_feeder_is_replaced_without_duplicates(site: Site) -> None:
    """The next feeder waits until the lease expires and continues after the messages already moved."""
    waiting = await _overflow(site, "orders", 15)
    await _take(site, "orders")
    dead = Lease(site.jetstream.leases, f"{TENANT}.orders", LeaseHolder(by="dead", run="1"))
    assert await dead.acquire() is None
    for record in (await site.records(streams.OVERFLOW))[:4]:
        headers = {HEADER_MSG_ID: record.headers[HEADER_MSG_ID]}
        await site.jetstream.publisher.publish(Publication(subjects.requested(TENANT, "orders"), record.data, headers))
    feeder = _feeder(site, "next")
    await feeder.feed()
    fed_too_early = feeder.moved
    came: list[str] = []

    async def drained() -> bool:
        await feeder.feed()
        if feeder.moved:
            came.extend(await _take(site, "orders"))
        return await site.waiting() == 0

    await until(drained, TTL_S + 10)

    assert fed_too_early == 0
    assert came == waiting


async def _shorten_duplicate_window(site: Site) -> None:
    for stream in (streams.WORK, streams.OVERFLOW):
        config = (await site.jetstream.connection.api(f"STREAM.INFO.{stream.name}"))["config"]
        await site.jetstream.connection.api(
            f"STREAM.UPDATE.{config['name']}", config | {"duplicate_window": 100_000_000}
        )


async def _await_end_of_window(site: Site) -> None:
    """Wait until the work stream accepts ids again that it had before."""
    probe = Publication(subjects.requested(TENANT, "probe"), document("probe"), {HEADER_MSG_ID: "probe"})
    await site.jetstream.publisher.publish(probe)
    await until(lambda: _is_forgotten(site, probe))


class RefusedOnce(JetStreamPublisher):
    """A publisher that finds the work stream full for one request, once, as another producer was quicker."""

    refused = ""

    async def publish(self, publication: Publication) -> PublishAck:
        """Publish, or raise the server's refusal."""
        is_due = publication.subject.startswith(subjects.requested("", "")[:-1])
        if self.refused and is_due and publication.headers[HEADER_MSG_ID].endswith(self.refused):
            self.refused = ""
            raise RejectedByServer(SUBJECT_FULL, "full")
        return await super().publish(publication)


@pytest.mark.parametrize("is_delivered_between", [True, False])
async def test_what_is_moved_behind_a_refused_message_is_moved_once(site: Site, is_delivered_between: bool) -> None:
    """Neither this feeder nor the next one publishes it again, also when the duplicate window has ended."""
    await _shorten_duplicate_window(site)
    waiting = await _overflow(site, "orders", 4)
    await _take(site, "orders")
    async with RefusedOnce(site.jetstream.connection) as publisher:
        publisher.refused = waiting[1]
        feeder = _feeder(site, "one", publisher=publisher)
        await feeder.feed()
        came = await _take(site, "orders") if is_delivered_between else []
        await _await_end_of_window(site)
        if is_delivered_between:
            await feeder.feed()
        else:
            await until(lambda: _no_lease(site), 10)
            await _feeder(site, "two").feed()
        came += await _take(site, "orders")

    assert Counter(came) == Counter(waiting)


async def test_an_id_that_is_accepted_again_during_a_long_overflow_is_fed(site: Site) -> None:
    """The feed knows the id from its start, when the first request with it was due."""
    await _shorten_duplicate_window(site)
    await site.publish("orders", document("orders", delivery="dlv_again"), "dlv_again")
    for _ in range(CAP + 4):
        await site.deliver("orders")
    feeder = _feeder(site, "one")
    first = (await site.records(streams.WORK))[-1]
    await site.jetstream.publisher.remove(streams.WORK.name, first.sequence)
    await feeder.feed()
    before = await _take(site, "orders")
    await _await_end_of_window(site)
    for _ in range(CAP):
        await site.deliver("orders")
    await site.publish("orders", document("orders", delivery="dlv_again"), "dlv_again")
    after: list[str] = []
    while await site.records(streams.OVERFLOW):
        after += await _take(site, "orders")
        await feeder.feed()
    after += await _take(site, "orders")

    assert before.count("dlv_again") == 1
    assert after.count("dlv_again") == 1


async def test_moved_messages_are_recognized_after_the_duplicate_window(site: Site) -> None:
    """The next feeder checks the due messages when the duplicate window has ended."""
    await _shorten_duplicate_window(site)
    waiting = await _overflow(site, "orders", 6)
    await _take(site, "orders")
    for record in (await site.records(streams.OVERFLOW))[:4]:
        headers = {HEADER_MSG_ID: record.headers[HEADER_MSG_ID]}
        await site.jetstream.publisher.publish(Publication(subjects.requested(TENANT, "orders"), record.data, headers))
    await _await_end_of_window(site)
    await _feeder(site, "next").feed()

    assert await _take(site, "orders") == waiting


async def test_a_message_that_was_moved_before_and_delivered_is_not_sent_again(site: Site, receiver: Scripted) -> None:
    """The feeder before died before it removed the message, and the server has forgotten its id."""
    await _shorten_duplicate_window(site)
    await site.destination("orders", receiver.url)
    await _put_into_overflow(site, TENANT, "orders", "dlv_x")
    dead = Lease(site.jetstream.leases, f"{TENANT}.orders", LeaseHolder(by="dead", run="1"), ttl_s=60)
    assert await dead.acquire() is None
    (record,) = await site.records(streams.OVERFLOW)
    headers = {HEADER_MSG_ID: record.headers[HEADER_MSG_ID]}
    await site.jetstream.publisher.publish(Publication(subjects.requested(TENANT, "orders"), record.data, headers))
    async with site.consumer():
        await until(lambda: site.results("dlv_x"), 20)
        await _await_end_of_window(site)
        await dead.release()
        await until(site.is_settled, 20)

    assert receiver.ids() == ["dlv_x"]
    assert [result.outcome for result in await site.results("dlv_x")] == [Outcome.DELIVERED, Outcome.SUPPRESSED]


class AnswerLost(JetStreamPublisher):
    """A publisher that gets no answer to one request, once, although it is stored."""

    lost = ""

    async def publish(self, publication: Publication) -> PublishAck:
        """Publish, and raise as without an answer."""
        stored = await super().publish(publication)
        if self.lost and publication.headers[HEADER_MSG_ID].endswith(self.lost):
            self.lost = ""
            raise ServerUnavailable("no answer")
        return stored


async def test_a_feed_begins_in_doubt_after_a_failure(site: Site) -> None:
    """What is moved again asks for a look at the results, and what is certain does not."""
    await _shorten_duplicate_window(site)
    for number in range(BATCH):
        await _put_into_overflow(site, TENANT, "orders", f"dlv_{number}")
    async with AnswerLost(site.jetstream.connection) as publisher:
        feeder = _feeder(site, "one", publisher=publisher)
        while await site.records(streams.OVERFLOW):
            await feeder.feed()
            await _take(site, "orders")
        waiting = await _overflow(site, "orders", 4)
        await _take(site, "orders")
        publisher.lost = waiting[1]
        await feeder.feed()
        first = [r for r in await site.records(streams.WORK) if r.subject.endswith(".orders")]
        await _take(site, "orders")
        await _await_end_of_window(site)
        await until(lambda: _is_fed(site, feeder), 10)
    again = [r for r in await site.records(streams.WORK) if r.subject.endswith(".orders")]

    assert [HEADER_SINCE in record.headers for record in first] == [False] * 4
    assert [(r.headers[HEADER_MSG_ID].rpartition(".")[2], HEADER_SINCE in r.headers) for r in again] == [
        (waiting[1], True)
    ]


async def _is_fed(site: Site, feeder: OverflowFeeder) -> bool:
    await feeder.feed()
    return not await site.records(streams.OVERFLOW)


async def _is_forgotten(site: Site, probe: Publication) -> bool:
    return not (await site.jetstream.publisher.publish(probe)).duplicate


async def test_nothing_is_left_at_the_server(site: Site, receiver: Scripted) -> None:
    """Neither a consumer nor a lease: an overflow that is empty leaves no trace."""
    for name in ("orders", "invoices"):
        await site.destination(name, receiver.url)
        await _overflow(site, name, 15)

    async with site.consumer():
        during = await site.jetstream.connection.api(f"CONSUMER.NAMES.{streams.OVERFLOW.name}")
        await until(site.is_settled, 20)
        await until(lambda: _no_lease(site), 10)
    after = await site.jetstream.connection.api(f"CONSUMER.NAMES.{streams.OVERFLOW.name}")

    assert not during["consumers"]
    assert not after["consumers"]
    assert len(receiver.seen) == 2 * (CAP + 15)


async def _no_lease(site: Site) -> bool:
    entries = await site.jetstream.leases.list()
    return not [entry for entry in entries if entry.value and not entry.key.startswith("_")]


async def test_open_and_ordered_destinations_are_not_fed(site: Site, receiver: Scripted) -> None:
    """The feeder skips a destination with an open breaker, and an ordered queue empties its own overflow."""
    stirred: list[tuple[str, str]] = []
    jetstream = site.jetstream
    await site.destination("fifo", receiver.url, ordering="fifo")
    for name in ("closed", "fifo", "open"):
        await _overflow(site, name, 5)
        await _take(site, name)
    feeder = OverflowFeeder(
        jetstream.connection,
        jetstream.publisher,
        leases=jetstream.leases,
        directory=ConfigurationDirectory(jetstream.destinations, jetstream.credentials),
        worker="one",
        is_circuit_open=lambda _tenant, destination: destination == "closed",
        on_ordered=lambda tenant, destination: stirred.append((tenant, destination)),
    )
    await feeder.feed()

    assert [len(await _take(site, name)) for name in ("closed", "fifo", "open")] == [0, 0, 5]
    assert stirred == [(TENANT, "fifo")]


async def test_a_worker_killed_while_feeding_loses_nothing(site: Site, receiver: Scripted) -> None:
    """All overflowed messages arrive, and only those in flight arrive twice."""
    await site.destination("orders", receiver.url, max_in_flight=4)
    deliveries = [await site.deliver("orders") for _ in range(60)]
    async with contextlib.AsyncExitStack() as running:
        first = await running.enter_async_context(site.consumer_process())
        await until(lambda: len(receiver.seen) >= 20, 30)
        await running.enter_async_context(site.consumer_process())
        first.kill()
        await until(site.is_settled, 40)

    assert set(receiver.ids()) == set(deliveries)
    assert len(receiver.seen) <= 60 + 4


async def test_a_large_overflow_does_not_delay_another(site: Site) -> None:
    """One overflow returns while the receiver of another destination hangs."""
    async with Scripted([HANG]) as slow, Scripted() as quick:
        await site.destination("slow", slow.url, timeout_s=30)
        await site.destination("quick", quick.url)
        await _overflow(site, "slow", 100)
        async with site.consumer_process() as consumer:
            await until(lambda: len(slow.seen) == 8, 20)
            await _overflow(site, "quick", 30)
            await until(lambda: len(quick.seen) == CAP + 30, 20)
            left = len(await site.records(streams.OVERFLOW))
            consumer.kill()

    assert left >= 90


async def test_tenants_take_turns(site: Site) -> None:
    """A tenant with one overflowed destination is fed in the first round, beside one with hundreds."""
    for number in range(400):
        await _put_into_overflow(site, TENANT, f"d{number}")
    for number in range(3):
        await _put_into_overflow(site, "other", f"d{number}")
    feeder = _feeder(site, "one", interval_s=0.1)
    await feeder.feed()
    first = Counter(record.subject.split(".")[3] for record in await site.records(streams.WORK))

    async def drained() -> bool:
        await feeder.feed()
        return not await site.records(streams.OVERFLOW)

    await until(drained, 60)
    fed = [record.subject for record in await site.records(streams.WORK)]
    assert first["other"] == 3
    assert first[TENANT] < 400, "a round ends in time"
    assert len(fed) == len(set(fed)) == 403, "later rounds continue where the one before ended"


async def test_a_tenant_is_fed_up_to_its_share(site: Site) -> None:
    """A round adds no more than the share, whatever the number of destinations, and nothing to a full share."""
    for number in range(100):
        await _put_into_overflow(site, TENANT, f"d{number % 30}", f"dlv_{number}")
    feeder = _feeder(site, "one", work_per_tenant=40)
    await feeder.feed()
    await feeder.feed()
    fed = Counter(record.subject for record in await site.records(streams.WORK))

    assert fed.total() == 40
    await site.jetstream.connection.api(f"STREAM.PURGE.{streams.WORK.name}")
    await feeder.feed()
    again = Counter(record.subject for record in await site.records(streams.WORK))
    assert again.total() == 40
    assert again.keys() - fed.keys(), "other destinations have their turn"


async def test_a_slow_destination_does_not_take_the_whole_share_of_its_tenant(
    tmp_path: Path, nats_server: EmbeddedNats
) -> None:
    """A destination whose due messages fill the share leaves a part of it to the others."""
    async with Site(tmp_path, nats_server, work_per_destination="100") as site:
        for _ in range(105):
            await site.deliver("slow")
        for number in range(40):
            await _put_into_overflow(site, TENANT, "quick", f"dlv_{number}")
        await _feeder(site, "one", work_per_tenant=40).feed()

        assert len(await _take(site, "quick")) == 20


async def _put_into_overflow(site: Site, tenant: str, destination: str, delivery: str = "dlv_1") -> None:
    headers = {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery)}
    data = document(destination, tenant=tenant, delivery=delivery)
    await site.jetstream.publisher.publish(Publication(subjects.overflow(tenant, destination), data, headers))


async def test_a_recreated_stream_is_fed_from_its_start(site: Site) -> None:
    """Its sequences begin again, so how far the former stream was fed does not count."""
    api, feeder = site.jetstream.connection.api, _feeder(site, "one")
    await _overflow(site, "orders", 20)
    await _take(site, "orders")
    await feeder.feed()
    fed = feeder.moved
    config = (await api(f"STREAM.INFO.{streams.OVERFLOW.name}"))["config"]
    await api(f"STREAM.DELETE.{streams.OVERFLOW.name}")
    await api(f"STREAM.CREATE.{streams.OVERFLOW.name}", config)
    await _take(site, "orders")
    waiting = await _overflow(site, "orders", 5)
    await _take(site, "orders")

    await feeder.feed()
    await feeder.feed()

    assert await _take(site, "orders") == waiting
    assert fed > 5
    assert feeder.moved == fed + 5
