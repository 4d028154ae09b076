"""The route of a single request to an ordered destination: into its queue, unless something older waits elsewhere."""

import asyncio

import pytest

from messaging.client.connection import IncomingMessage
from messaging.delivery_requests import DeliveryRequest, OrderedRoute, Route, publish_requests
from messaging.publication import PublishAck
from schemas import streams, subjects
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id
from tests.support.site import TENANT, Site, document

ORDERED, WORK, OVERFLOW = streams.ORDERED.name, streams.WORK.name, streams.OVERFLOW.name


@pytest.fixture
def route(site: Site) -> OrderedRoute:
    """Return the route of one process."""
    return OrderedRoute(site.jetstream.publisher, site.jetstream.connection.post)


async def _request(site: Site, route: OrderedRoute, *names: str) -> list[PublishAck]:
    """Request a delivery to ordered destinations, as the API does."""
    delivery = new_delivery_id()
    requests = [
        DeliveryRequest(
            TENANT,
            name,
            document(name, delivery=delivery),
            {HEADER_MSG_ID: subjects.msg_id(TENANT, name, delivery)},
        )
        for name in names
    ]
    return await publish_requests(site.jetstream.publisher, requests, ordered=route)


async def test_a_request_goes_into_the_queue_while_nothing_waits_elsewhere(site: Site, route: OrderedRoute) -> None:
    """What waits in the queue, or for another destination, is in nobody's way."""
    await site.deliver("other")
    stored = [(await _request(site, route, "orders"))[0].stream for _ in range(2)]

    assert stored == [ORDERED, ORDERED]


async def test_a_request_follows_what_waits_in_the_work_stream(site: Site, route: OrderedRoute) -> None:
    """A fan-out is stored in the work stream, and a request that follows it would overtake it in the queue."""
    await _request(site, route, "orders", "other")
    follower = await _request(site, route, "orders")
    [fan_out, *_] = await site.records(streams.WORK)
    await site.jetstream.publisher.remove(WORK, fan_out.sequence)
    await site.jetstream.publisher.remove(WORK, follower[0].seq)
    last = await _request(site, route, "orders")

    assert [one.stream for one in (*follower, *last)] == [WORK, ORDERED]


async def test_a_request_follows_what_waits_in_the_overflow(site: Site, route: OrderedRoute) -> None:
    """The work stream may have room again, but the overflow is read in its own order."""
    publisher = site.jetstream.publisher
    delivery = new_delivery_id()
    headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", delivery)}
    waiting = DeliveryRequest(TENANT, "orders", document("orders", delivery=delivery), headers)
    await publisher.publish(waiting.on(subjects.overflow))
    follower = await _request(site, route, "orders")

    assert follower[0].stream == OVERFLOW


async def test_a_choice_that_began_before_a_request_does_not_count_for_it(site: Site, route: OrderedRoute) -> None:
    """Requests at once share their questions to the servers, and none sees an answer from before it was made."""

    async def choose_after_a_delivery() -> Route:
        await site.deliver("orders")
        return await route.choose(TENANT, "orders")

    first = asyncio.create_task(route.choose(TENANT, "orders"))
    others = [asyncio.create_task(choose_after_a_delivery()) for _ in range(20)]

    assert await first in (Route.QUEUE, Route.WORK)
    assert set(await asyncio.gather(*others)) == {Route.WORK}


async def test_the_newest_sequence_is_read_without_storing_anything(site: Site) -> None:
    """The read is a publish that the server rejects, and no failure of this process."""
    publisher, subject = site.jetstream.publisher, subjects.requested(TENANT, "orders")
    before = await publisher.last_sequence(subject)
    await site.deliver("orders")
    await site.deliver("orders")
    after = await publisher.last_sequence(subject)
    await site.deliver("other")
    of_stream = await publisher.last_sequence(subject, of_stream=True)

    assert (before, after, of_stream) == (0, 2, 3)
    assert len(await site.records(streams.WORK)) == 3
    assert not publisher.failures


async def test_a_consumer_is_woken_for_a_queue_that_may_have_none(site: Site, route: OrderedRoute) -> None:
    """The first request wakes one, and those that soon follow do not."""
    woken = list[str]()

    async def listen(incoming: IncomingMessage) -> None:
        woken.append(incoming.subject)

    connection = site.jetstream.connection
    await connection.subscribe(subjects.line("*", "*", "wake"), listen)
    for _ in range(3):
        await _request(site, route, "orders")
    await _request(site, route, "other")
    await connection.ask("$JS.API.INFO")  # what was sent before it has arrived

    assert woken == [subjects.line(TENANT, "orders", "wake"), subjects.line(TENANT, "other", "wake")]
