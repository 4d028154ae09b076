"""What an attempt leads to never undoes what a later one did, however old the message is that comes again.

Each test plays an earlier consumer: it takes the message, stores what that consumer stored, and loses the
acknowledgement. Then a real consumer gets the message again.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from consumers.delivery import effects
from consumers.model.request import DeliveryAttemptRequest
from consumers.worker.load_shedding import overflow_copy
from messaging.message import Message
from messaging.publication import Publication
from messaging.pull_consumer import fetch
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.headers import HEADER_ATTEMPT, HEADER_MSG_ID, HEADER_SCHEDULE
from tests.support.cluster import cluster
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

LATER_S = 3.0
"""Longer than the server waits for an acknowledgement."""


class EarlierConsumer:
    """Takes messages of a site and stores what follows from attempts, but acknowledges nothing by itself."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def take(self, stream: streams.StreamConfig = streams.WORK) -> DeliveryAttemptRequest:
        """Return the next request of a stream, which the server delivers again later."""
        found: list[Message] = []

        async def is_there() -> bool:
            found.extend(await fetch(self._site.jetstream.connection, stream=stream.name, consumer="delivery", batch=1))
            return bool(found)

        await until(is_there)
        return DeliveryAttemptRequest.from_message(found[0], max_payload_bytes=10_000)

    async def store(self, *publications: Publication) -> None:
        """Store publications as a consumer that knows nothing else does."""
        for one in publications:
            plain = {name: value for name, value in one.headers.items() if not name.startswith("Nats-Expected")}
            await self._site.jetstream.publisher.publish(msgspec.structs.replace(one, headers=plain))

    async def fail(self, delivery: DeliveryAttemptRequest, *, wait_s: float) -> None:
        """Record a failed attempt and schedule the next one."""
        await self.store(*effects.after_attempt(delivery, result(delivery, wait_s=wait_s), at=now(), archived=False))

    async def deliver(self, delivery: DeliveryAttemptRequest) -> None:
        """Record a successful attempt."""
        await self.store(*effects.after_attempt(delivery, result(delivery), at=now(), archived=False))


def now() -> datetime:
    return datetime.now(UTC)


def result(delivery: DeliveryAttemptRequest, *, wait_s: float | None = None) -> AttemptResult:
    """A result of the delivery's attempt: delivered, or failed with the next attempt after `wait_s`."""
    return AttemptResult(
        delivery=delivery.id,
        destination=delivery.destination,
        event_type=delivery.event_type,
        attempt=delivery.retry_state.attempt,
        outcome=Outcome.DELIVERED if wait_s is None else Outcome.RETRY_SCHEDULED,
        code=Code.HTTP_2XX if wait_s is None else Code.HTTP_5XX,
        started_at=now(),
        duration_ms=1,
        worker="earlier",
        next_attempt_at=None if wait_s is None else now() + timedelta(seconds=wait_s),
    )


async def in_hand(site: Site, delivery: str = "") -> DeliveryAttemptRequest:
    """The only request in the work stream, or that of `delivery`, as another consumer has it."""
    (record,) = [record for record in await site.records(streams.WORK) if delivery.encode() in record.data]
    reply = f"$JS.ACK.{streams.WORK.name}.delivery.2.{record.sequence}.1.{time.time_ns()}.0".encode()
    lane = subjects.lane_of(record.subject)
    message = Message(record.subject, lane, reply, record.data, b"", site.jetstream.connection)
    return DeliveryAttemptRequest.from_message(message, max_payload_bytes=10_000)


async def schedule_of(site: Site, delivery: str) -> dict[str, str] | None:
    """The headers of the delivery's schedule."""
    subject = subjects.scheduled(TENANT, "orders", delivery)
    found = [record.headers for record in await site.records(streams.RETRIES) if record.subject == subject]
    return found[0] if found else None


async def made(site: Site, delivery: str) -> list[tuple[int, Outcome]]:
    """The attempts on record and their outcomes."""
    return [(one.attempt, one.outcome) for one in await site.results(delivery)]


async def test_an_old_attempt_that_comes_again_leaves_the_newer_schedule_in_place(
    site: Site, receiver: Scripted
) -> None:
    """Attempt 1 comes again while attempt 3 is scheduled, and the server has forgotten all ids."""
    await site.destination("orders", receiver.url)
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.fail(first, wait_s=0)
    second = await earlier.take(streams.RETRIES)
    await earlier.fail(second, wait_s=LATER_S + 2)
    second.message.ack()
    await site.server.restart()

    async with site.consumer():
        await until(lambda: receiver.seen, 20)
        await until(site.is_settled, 20)

    attempts = await made(site, delivery)
    assert (1, Outcome.SUPPRESSED) in attempts
    assert [one for one in attempts if one[1] is not Outcome.SUPPRESSED] == [
        (1, Outcome.RETRY_SCHEDULED),
        (2, Outcome.RETRY_SCHEDULED),
        (3, Outcome.DELIVERED),
    ]
    assert len(receiver.seen) == 1


async def test_nothing_is_sent_or_scheduled_after_delivered(site: Site, receiver: Scripted) -> None:
    """Attempt 1 comes again after attempt 2 was successful."""
    await site.destination("orders", receiver.url)
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.fail(first, wait_s=0)
    second = await earlier.take(streams.RETRIES)
    await earlier.deliver(second)
    second.message.ack()
    await site.server.restart()

    async with site.consumer():
        await until(site.is_settled, 20)

    assert receiver.seen == []
    attempts = await made(site, delivery)
    assert attempts[:2] == [(1, Outcome.RETRY_SCHEDULED), (2, Outcome.DELIVERED)]
    assert {outcome for _, outcome in attempts[2:]} == {Outcome.SUPPRESSED}


async def test_a_schedule_that_a_dead_consumer_did_not_store_is_stored(site: Site, receiver: Scripted) -> None:
    """It died between the result and the schedule. The attempt is not repeated."""
    await site.destination("orders", receiver.url)
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.store(effects.record(first, result(first, wait_s=1), now()))

    async with site.consumer():
        await until(lambda: receiver.seen, 20)
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [
        (1, Outcome.RETRY_SCHEDULED),
        (1, Outcome.SUPPRESSED),
        (2, Outcome.DELIVERED),
    ]


async def test_an_attempt_whose_schedule_has_fired_is_not_scheduled_again(site: Site, receiver: Scripted) -> None:
    """Another consumer has attempt 2 in hand, which no result shows yet, when attempt 1 comes again."""
    await site.destination("orders", receiver.url)
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.fail(first, wait_s=0)
    second = await earlier.take(streams.RETRIES)
    await site.server.restart()

    async def is_suppressed() -> bool:
        second.message.in_progress()
        return (1, Outcome.SUPPRESSED) in await made(site, delivery)

    async with site.consumer():
        await until(is_suppressed, 20)
        assert await schedule_of(site, delivery) is None
        await earlier.deliver(second)
        second.message.ack()
        await until(site.is_settled, 20)

    assert receiver.seen == []


async def test_a_deferred_request_that_comes_again_is_not_sent_beside_its_schedule(
    site: Site, receiver: Scripted
) -> None:
    """The circuit breaker was open, so no result shows that the request was handled."""
    await site.destination("orders", receiver.url)
    _, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.store(effects.deferral(first, now() + timedelta(seconds=LATER_S + 1)))

    async with site.consumer():
        await until(site.is_settled, 20)

    assert len(receiver.seen) == 1


async def test_the_first_recorded_result_of_an_attempt_decides(site: Site, receiver: Scripted) -> None:
    """Another consumer records `delivered` while this one's request is under way, which then fails."""
    receiver.script, receiver.hold = [500], asyncio.Event()
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen)
        await EarlierConsumer(site).deliver(await in_hand(site))
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [(1, Outcome.DELIVERED)]
    assert len(receiver.seen) == 1


async def test_a_success_that_another_result_came_before_is_recorded_and_ends_the_retries(
    site: Site, receiver: Scripted
) -> None:
    """Another consumer recorded a failure of the same attempt and scheduled the next one."""
    receiver.script, receiver.hold = [200], asyncio.Event()
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen)
        await EarlierConsumer(site).fail(await in_hand(site), wait_s=3)
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert [one for one in await made(site, delivery) if one[1] is not Outcome.SUPPRESSED] == [
        (1, Outcome.RETRY_SCHEDULED),
        (1, Outcome.DELIVERED),
    ]
    assert len(receiver.seen) == 1


async def test_a_success_that_is_recorded_while_retries_go_on_ends_them(site: Site, receiver: Scripted) -> None:
    """A consumer that was paused records it between two attempts of the consumer that took over."""
    receiver.script = [500, 500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[1, 2, 2])
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()

    async with site.consumer():
        await until(lambda: len(receiver.seen) == 2, 20)
        await until(lambda: _has_attempts(site, delivery, 2))
        await earlier.store(effects.record(first, result(first), now(), suffix=".m1"))
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [
        (1, Outcome.RETRY_SCHEDULED),
        (2, Outcome.RETRY_SCHEDULED),
        (1, Outcome.DELIVERED),
        (1, Outcome.SUPPRESSED),
    ]
    assert len(receiver.seen) == 2


async def test_a_shed_copy_waits_for_its_original(site: Site, receiver: Scripted) -> None:
    """The acknowledgement of the original was lost, and another consumer has it in hand when the copy is due."""
    await site.destination("orders", receiver.url)
    delivery, earlier = await site.deliver("orders"), EarlierConsumer(site)
    first = await earlier.take()
    await earlier.store(overflow_copy(first.message))

    async def has_waited() -> bool:
        first.message.in_progress()
        state = await site.jetstream.connection.api(f"CONSUMER.INFO.{streams.WORK.name}.delivery")
        return bool(state["num_redelivered"])

    async with site.consumer():
        await until(has_waited, 20)
        await earlier.deliver(first)
        first.message.ack()
        await until(site.is_settled, 20)

    assert receiver.seen == []
    assert await made(site, delivery) == [(1, Outcome.DELIVERED), (1, Outcome.SUPPRESSED)]


async def test_a_schedule_whose_id_the_server_knows_is_stored_if_it_is_gone(site: Site, receiver: Scripted) -> None:
    """The server answers `duplicate` for an id whose message no longer exists."""
    receiver.script, receiver.hold = [500, 200], asyncio.Event()
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen)
        known = {HEADER_MSG_ID: f"{subjects.msg_id(TENANT, 'orders', delivery)}.a2"}
        subject = subjects.scheduled(TENANT, "orders", "dlv_other")
        schedule = {HEADER_SCHEDULE: "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.due(TENANT, "orders")}
        stored = await site.jetstream.publisher.put(subject, b"{}", schedule | known)
        await site.jetstream.publisher.remove(streams.RETRIES.name, stored.seq)
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [(1, Outcome.RETRY_SCHEDULED), (2, Outcome.DELIVERED)]


async def test_a_failed_delivery_whose_id_the_server_knows_is_kept_if_it_is_gone(
    site: Site, receiver: Scripted
) -> None:
    """The same id failed before its tenant was removed and created again."""
    receiver.script, receiver.hold = [410], asyncio.Event()
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen)
        known = {HEADER_MSG_ID: f"{subjects.msg_id(TENANT, 'orders', delivery)}.a1"}
        stored = await site.jetstream.publisher.put(subjects.failed(TENANT, "orders", delivery), b"{}", known)
        await site.jetstream.publisher.remove(streams.FAILED.name, stored.seq)
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [(1, Outcome.FAILED)]
    assert len(await site.records(streams.FAILED)) == 1


async def test_a_late_attempt_does_not_replace_a_newer_schedule(site: Site, receiver: Scripted) -> None:
    """Attempt 1 ends after another consumer has scheduled attempt 3."""
    receiver.script, receiver.hold = [500, 200], asyncio.Event()
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen)
        request = await in_hand(site)
        second = msgspec.structs.replace(request, retry_state=request.retry_state.after_attempt())
        _, schedule = effects.after_attempt(second, result(second, wait_s=3), at=now(), archived=False)
        await EarlierConsumer(site).store(schedule)
        receiver.hold.set()
        await until(lambda: _has_attempts(site, delivery, 1))
        kept = await schedule_of(site, delivery)
        assert kept is not None
        assert kept[HEADER_ATTEMPT] == "3"
        await until(site.is_settled, 20)

    assert await made(site, delivery) == [(1, Outcome.RETRY_SCHEDULED), (3, Outcome.DELIVERED)]


async def _has_attempts(site: Site, delivery: str, count: int) -> bool:
    return len(await site.results(delivery)) >= count


@pytest.mark.parametrize("waits", [1, 2])
async def test_an_attempt_that_waited_for_its_secret_is_made_when_the_secret_is_there(
    tmp_path: Path, site: Site, receiver: Scripted, waits: int
) -> None:
    """Its request came again before the wait, so each next attempt looks for results and finds those of the waits."""
    secret = site.directory / "secrets" / NAMESPACE / "signing-key.json"
    content = secret.read_bytes()
    secret.unlink()
    async with Site(tmp_path, site.server, secret_retry_schedule_s="0.3") as waiting:
        await waiting.destination("orders", receiver.url)
        secret.unlink(missing_ok=True)
        delivery, earlier = await waiting.deliver("orders"), EarlierConsumer(waiting)
        await earlier.take()  # and it dies: the request comes again
        async with waiting.consumer():
            await until(lambda: _has_waited(waiting, delivery, waits), 20)
            secret.write_bytes(content)
            await until(lambda: receiver.seen, 20)
            await until(waiting.is_settled, 20)
        attempts = await made(waiting, delivery)

    assert attempts[-1] == (1, Outcome.DELIVERED)
    assert (1, Outcome.SUPPRESSED) not in attempts


async def _has_waited(site: Site, delivery: str, waits: int) -> bool:
    return len(await made(site, delivery)) >= waits


async def test_what_is_on_record_is_not_sent_after_a_change_of_leaders(tmp_path: Path, receiver: Scripted) -> None:
    """The new leader does not know that another consumer had the message, and says that it comes for the first time."""
    receiver.hold = asyncio.Event()
    async with cluster(tmp_path / "nats") as nodes, Site(tmp_path, nodes[0], nats_replicas="3") as site:
        await site.destination("orders", receiver.url, max_in_flight=1)
        async with site.consumer_process() as consumer:
            await site.deliver("orders")
            await until(lambda: receiver.seen, 30)
            second = await site.deliver("orders")
            await EarlierConsumer(site).deliver(await in_hand(site, second))
            await site.jetstream.connection.api(f"CONSUMER.LEADER.STEPDOWN.{streams.WORK.name}.delivery")
            await until(lambda: consumer.says("pull.refused"), 20)
            receiver.hold.set()
            await until(site.is_settled, 60)

    assert second not in receiver.ids()
