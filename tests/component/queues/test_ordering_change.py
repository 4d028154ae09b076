"""A change of `ordering` sends nothing twice: a copy in the queue waits for the hands that have its original."""

import asyncio

import pytest

from consumers.queues.transfer import moved_copy
from consumers.worker.load_shedding import overflow_copy
from messaging.message import Message
from messaging.pull_consumer import fetch
from schemas import streams, subjects
from schemas.codes import Outcome
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry
WORK = streams.WORK_CONSUMER


async def _deliver_beside(site: Site, receiver: Scripted) -> None:
    """Deliver by another ordered queue: the consumers know the change, and had time to move."""
    await site.destination("beside", receiver.url, ordering="fifo")
    sent = [await site.deliver("beside") for _ in range(3)]
    await until(lambda: set(sent) <= set(receiver.ids()), 20)


async def _was_handed_back(site: Site) -> bool:
    info = await site.jetstream.connection.api(f"CONSUMER.INFO.{WORK.stream}.{WORK.name}")
    return bool(info["num_redelivered"])


async def _is_served(site: Site) -> bool:
    return (await site.jetstream.leases.find(f"{TENANT}.orders")).value is not None


def _of(deliveries: list[str], receiver: Scripted) -> list[str]:
    return [one for one in receiver.ids() if one in set(deliveries)]


async def test_a_request_in_flight_when_its_destination_becomes_ordered_is_sent_once(
    site: Site, receiver: Scripted
) -> None:
    """The receiver takes longer than the server waits for an acknowledgement. What waits follows in order."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=2)

    async with site.consumer(), site.consumer():
        flying = [await site.deliver("orders") for _ in range(2)]
        await until(lambda: len(receiver.seen) == 2, 10)
        await site.destination("orders", receiver.url, ordering="fifo")
        waiting = [await site.deliver("orders") for _ in range(10)]
        await until(lambda: _was_handed_back(site), 20)
        in_flight = sorted(receiver.ids())
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert in_flight == sorted(flying)
    assert receiver.ids()[2:] == waiting
    assert {(r.attempt, r.outcome) for r in await site.results()} == {(1, Outcome.DELIVERED)}


async def test_a_failed_request_that_was_in_flight_is_retried_in_the_queue(site: Site, receiver: Scripted) -> None:
    """Its retry joins the queue, and is the only second request."""
    receiver.hold, receiver.script = asyncio.Event(), [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[1])

    async with site.consumer(), site.consumer():
        early = await site.deliver("orders")
        await until(lambda: receiver.seen, 10)
        await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[1])
        late = await site.deliver("orders")
        await until(lambda: _was_handed_back(site), 20)
        receiver.hold.set()
        await until(site.is_settled, 20)

    ids = receiver.ids()
    assert ids[:2] == [early, late]
    assert sorted(ids) == sorted([early, late] * 2)
    assert [(r.attempt, r.outcome) for r in await site.results(early)] == [
        (1, Outcome.RETRY_SCHEDULED),
        (2, Outcome.DELIVERED),
    ]


async def test_a_moved_copy_waits_for_an_original_that_is_in_flight(site: Site, receiver: Scripted) -> None:
    """A mover died before it removed the original, and then the destination became unordered."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url)
    delivery = await site.deliver("orders")
    (original,) = await site.records(streams.WORK)
    target = subjects.ordered(TENANT, "orders")
    await site.jetstream.publisher.publish(moved_copy(streams.WORK.name, original, target, is_doubtful=True))

    async with site.consumer():
        await until(lambda: receiver.seen, 10)
        await until(lambda: _is_served(site), 10)
        beside = Scripted()
        async with beside:
            await _deliver_beside(site, beside)
        in_flight = receiver.ids()
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert in_flight == receiver.ids() == [delivery]
    assert [r.outcome for r in await site.results(delivery)] == [Outcome.DELIVERED, Outcome.SUPPRESSED]


async def test_a_shed_copy_that_is_moved_waits_for_its_original(site: Site, receiver: Scripted) -> None:
    """The acknowledgement of the original was lost, and another consumer has the original in hand."""
    await site.destination("orders", receiver.url)
    delivery = await site.deliver("orders")
    (original,) = await _take(site)
    await site.jetstream.publisher.publish(overflow_copy(original))
    await site.destination("orders", receiver.url, ordering="fifo")

    async def keep_in_hand() -> None:
        while True:
            original.in_progress()
            await asyncio.sleep(0.2)

    async with site.consumer():
        keeping = asyncio.create_task(keep_in_hand())
        await _deliver_beside(site, receiver)
        sent_beside = _of([delivery], receiver)
        keeping.cancel()
        original.nak()
        await until(site.is_settled, 20)

    assert sent_beside == []
    assert _of([delivery], receiver) == [delivery]


async def _take(site: Site) -> list[Message]:
    return await fetch(site.jetstream.connection, stream=WORK.stream, consumer=WORK.name, batch=1)


async def test_a_request_in_flight_when_its_destination_becomes_unordered_is_sent_once(
    site: Site, receiver: Scripted
) -> None:
    """What waits in the work stream for the queue is delivered, and the queue continues in order."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, ordering="fifo")

    async with site.consumer(), site.consumer():
        queued = [await site.deliver("orders") for _ in range(5)]
        await until(lambda: receiver.seen, 10)
        await site.destination("orders", receiver.url)
        late = [await site.deliver("orders") for _ in range(3)]
        await until(lambda: set(late) <= set(receiver.ids()), 20)
        receiver.hold.set()
        await until(site.is_settled, 20)

    assert _of(queued, receiver) == queued
    assert sorted(receiver.ids()) == sorted(queued + late)
