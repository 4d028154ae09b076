"""The state of a delivery, derived from the streams alone, at every step."""

import asyncio
from datetime import UTC, datetime, timedelta

from consumers.attempts.timeline import DeliveryState, DeliveryTimeline, read_timelines
from schemas.codes import Code, Outcome
from schemas.ids import time_of
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until


async def _timeline(site: Site, delivery: str, destination: str | None = None) -> DeliveryTimeline:
    (found,) = await read_timelines(site.jetstream.connection, TENANT, delivery, destination)
    return found


async def test_a_delivery_is_followed_from_request_to_receipt(site: Site, receiver: Scripted) -> None:
    """Pending while it is due or being attempted, and delivered with its attempt."""
    await site.destination("orders", receiver.url)
    delivery = await site.deliver("orders")
    assert (await _timeline(site, delivery)).state is DeliveryState.PENDING
    receiver.hold = asyncio.Event()

    async with site.consumer():
        await until(lambda: receiver.seen, 10)
        assert (await _timeline(site, delivery, "orders")).state is DeliveryState.PENDING
        receiver.hold.set()
        await until(site.is_settled, 10)

    found = await _timeline(site, delivery)
    assert (found.state, found.code, found.event_type) == (DeliveryState.DELIVERED, Code.HTTP_2XX, "invoice.paid")
    assert [result.outcome for result in found.attempts] == [Outcome.DELIVERED]
    assert found.is_complete


async def test_a_retry_shows_when_its_time_is(site: Site) -> None:
    """Scheduled, with the time at the server and the attempt that failed."""
    async with Scripted([503]) as receiver:
        await site.destination("orders", receiver.url, retry_schedule_s=(3600,))
        async with site.consumer():
            delivery = await site.deliver("orders")
            await until(lambda: receiver.seen, 10)

            async def is_scheduled() -> bool:
                return (await _timeline(site, delivery)).state is DeliveryState.SCHEDULED

            await until(is_scheduled, 10)
    found = await _timeline(site, delivery)
    assert found.next_attempt_at is not None
    assert found.next_attempt_at > datetime.now(UTC) + timedelta(minutes=30)
    assert [result.code for result in found.attempts] == [Code.HTTP_5XX]


async def test_a_delivery_in_the_overflow_is_found(site: Site, receiver: Scripted) -> None:
    """The timeline finds a delivery behind others of its destination, without a consumer."""
    await site.destination("orders", receiver.url)
    full = site.settings.nats.work_per_destination
    for _ in range(full):
        await site.deliver("orders")

    delivery = await site.deliver("orders")

    assert (await _timeline(site, delivery)).state is DeliveryState.OVERFLOW


async def test_one_id_at_several_destinations_has_a_timeline_for_each(site: Site, receiver: Scripted) -> None:
    """By destination, each with how it ended there; a failed one with all of its attempts."""
    async with Scripted([500]) as broken:
        await site.destination("broken", broken.url, retry_schedule_s=(0.3,))
        await site.destination("orders", receiver.url)
        async with site.consumer():
            await site.deliver("orders", delivery="order-7")
            await site.deliver("broken", delivery="order-7")
            await until(site.is_settled, 10)

    found = await read_timelines(site.jetstream.connection, TENANT, "order-7")

    assert [(one.destination, one.state) for one in found] == [
        ("broken", DeliveryState.FAILED),
        ("orders", DeliveryState.DELIVERED),
    ]
    assert [result.attempt for result in found[0].attempts] == [1, 2]


async def test_an_unknown_delivery_has_no_timeline(site: Site) -> None:
    """Neither a generated id nor another one has a timeline."""
    for delivery in ("dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB", "order-8"):
        assert await read_timelines(site.jetstream.connection, TENANT, delivery) == []


def test_a_generated_id_contains_its_time() -> None:
    """The time is exact to the millisecond, and other ids contain none."""
    from schemas.ids import new_delivery_id

    made_at = time_of(new_delivery_id())
    assert made_at is not None
    assert abs(made_at - datetime.now(UTC)) < timedelta(seconds=5)
    for other in ("order-7", "dlv_1", "dlv_" + "I" * 26, "dlv_" + "Z" * 26, "x" * 26):
        assert time_of(other) is None


async def test_the_head_of_an_ordered_queue_shows_its_next_attempt(site: Site) -> None:
    """The head stays first in its queue, and the next delivery waits behind it."""
    async with Scripted([503]) as receiver:
        await site.destination("orders", receiver.url, retry_schedule_s=(3600,), ordering="fifo")
        async with site.consumer():
            first, second = await site.deliver("orders"), await site.deliver("orders")
            await until(lambda: receiver.seen, 10)

            async def is_scheduled() -> bool:
                return (await _timeline(site, first)).state is DeliveryState.SCHEDULED

            await until(is_scheduled, 10)
            found, behind = await _timeline(site, first), await _timeline(site, second)

    assert found.next_attempt_at is not None
    assert found.next_attempt_at > datetime.now(UTC) + timedelta(minutes=30)
    assert behind.state is DeliveryState.PENDING
    assert behind.attempts == []
