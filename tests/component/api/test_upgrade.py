"""Two versions of the API at a time: what one has stored, the other one knows, in both directions.

Version 0.1.0 keeps no claims, and stores each request without a mark, under an id that names no claim.
"""

import functools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consumers.delivery.named_ids import digest_of
from consumers.queues.transfer import second_copy
from messaging.delivery_requests import DeliveryRequest, publish_requests
from messaging.publication import Publication, PublishAck
from oneprotect.api.operations.named_deliveries import NamedDeliveries
from oneprotect.api.web.rate_limits import TenantLimiter
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.events import CONTENT_TYPE, OWN_SOURCES
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID, HEADER_SINCE
from schemas.roles import Role
from tests.support.api import Api, duplicates_in, request_named
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

BODY: dict[str, Any] = {"event_type": "invoice.paid", "payload": {"n": 1}}
DIGEST = digest_of("invoice.paid", "application/json", b'{"n":1}')


def _of_earlier(destination: str, delivery: str, payload: bytes = b'{"n":1}') -> Publication:
    """Return a request as version 0.1.0 publishes it."""
    data = document(destination, delivery=delivery, payload=payload)
    headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, destination, delivery), "content-type": CONTENT_TYPE}
    own = data.replace(b'"/tests"', f'"{OWN_SOURCES}api"'.encode())
    return Publication(subjects.requested(TENANT, destination), own, headers)


async def _store_as_earlier(site: Site, destination: str, delivery: str, payload: bytes = b'{"n":1}') -> PublishAck:
    return await site.jetstream.publisher.publish(_of_earlier(destination, delivery, payload))


@pytest.mark.parametrize("ordering", ["any", "fifo"])
@pytest.mark.parametrize("is_attempted", [False, True])
async def test_a_repeat_of_what_an_earlier_version_stored_is_a_duplicate(
    api: Api, receiver: Scripted, ordering: str, is_attempted: bool
) -> None:
    """It waits in the work stream, or has a result. The delivery is sent once, and at once."""
    site = api.site
    await site.destination("orders", receiver.url, ordering=ordering)
    producer = await api.client(Role.PRODUCER)
    await _store_as_earlier(site, "orders", "k")
    if is_attempted:
        async with site.consumer():
            await until(site.is_settled, 20)
        await site.jetstream.named_id_rows.delete(f"{TENANT}.orders.k")  # a consumer of 0.1.0 makes no claim

    replies = [await request_named(producer, "k", BODY | {"destination": "orders"}) for _ in range(2)]
    await request_named(producer, "next", BODY | {"destination": "orders"})
    async with site.consumer():
        await until(site.is_settled, 10)

    assert [duplicates_in(reply) for reply in replies] == [{"orders": True}] * 2
    assert _in_order(receiver, ordering) == ["k", "next"]


def _in_order(receiver: Scripted, ordering: str) -> list[str]:
    """Return the ids as they came, or sorted if the destination keeps no order."""
    return receiver.ids() if ordering == "fifo" else sorted(receiver.ids())


async def test_another_body_than_that_of_an_earlier_version_is_refused(api: Api, receiver: Scripted) -> None:
    """What the earlier version has accepted is sent, and not quarantined for the other one."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    await _store_as_earlier(api.site, "orders", "k", b'{"n":2}')

    refused = await request_named(producer, "k", BODY | {"destination": "orders"})
    async with api.site.consumer():
        await until(api.site.is_settled, 10)

    assert (refused.status, refused.json["type"]) == (409, "urn:oneprotect:problem:id-used")
    assert [seen.body for seen in receiver.seen] == [b'{"n":2}']


async def test_a_fan_out_that_an_earlier_version_stored_reaches_new_destinations_only(
    api: Api, receiver: Scripted
) -> None:
    """One destination has subscribed since."""
    for name in ("a", "b", "c"):
        await api.site.destination(name, receiver.url, event_types=["*"])
    producer = await api.client(Role.PRODUCER)
    for name in ("a", "b"):
        await _store_as_earlier(api.site, name, "k")

    replies = [await request_named(producer, "k", BODY) for _ in range(2)]
    async with api.site.consumer():
        await until(api.site.is_settled, 10)

    assert duplicates_in(replies[0]) == {"a": True, "b": True, "c": False}
    assert duplicates_in(replies[1]) == {"a": True, "b": True, "c": True}
    assert receiver.ids() == ["k"] * 3


async def test_a_request_for_the_overflow_is_looked_for_in_the_work_stream(
    tmp_path: Path, nats_server: EmbeddedNats
) -> None:
    """One of its destinations is at its limit, or its tenant exceeds its share. The overflow does not know the ids."""
    limiter = TenantLimiter(tenant_per_s=1000, caller_per_s=1000, max_concurrent=10)
    async with Site(tmp_path, nats_server, work_per_destination="2") as site:
        jetstream, publisher = site.jetstream, site.jetstream.publisher
        named = NamedDeliveries(jetstream.connection, jetstream.named_ids, limiter)
        for destination, delivery in (("full", "k"), ("other", "k"), ("full", "single"), ("other", "over")):
            await _store_as_earlier(site, destination, delivery)

        async def store(delivery: str, *destinations: str) -> list[bool]:
            requests = [
                DeliveryRequest(TENANT, name, one.payload, {**one.headers, HEADER_CHECKED: "1"})
                for name in destinations
                for one in [_of_earlier(name, delivery)]
            ]
            publish = functools.partial(publish_requests, publisher)
            return [ack.duplicate for ack in await named.store(requests, delivery, DIGEST, publish)]

        at_limit = await store("k", "full", "other")
        publisher.exceeds_share = lambda _tenant, _count: True
        over_share = [await store("single", "full"), await store("over", "other", "third")]
        moved = await site.records(streams.OVERFLOW)

    assert at_limit == [True, True]
    assert over_share == [[True], [True, False]]
    assert [record.subject for record in moved] == [subjects.overflow(TENANT, "third")]


async def test_a_repeat_that_an_earlier_version_stored_in_the_overflow_asks_for_the_results_of_ten_minutes(
    site: Site,
) -> None:
    """Its own feeder would drop what the work stream knows. A publisher's message may have another body."""
    own = replace(_of_earlier("orders", "k"), subject=subjects.overflow(TENANT, "orders"))
    await site.jetstream.publisher.publish(own)
    await site.jetstream.publisher.put(own.subject, document("orders"))
    target = subjects.requested(TENANT, "orders")
    records = await site.records(streams.OVERFLOW)

    since = [second_copy(streams.OVERFLOW.name, record, target).headers[HEADER_SINCE] for record in records]

    waited = [one.stored_at - datetime.fromisoformat(text) for one, text in zip(records, since, strict=True)]
    assert waited == [timedelta(minutes=10), timedelta(0)]


async def test_an_earlier_version_knows_what_this_one_stored(api: Api, receiver: Scripted) -> None:
    """After a rollback, the server drops what the earlier version publishes: it has the same id."""
    for name in ("a", "b"):
        await api.site.destination(name, receiver.url, event_types=["*"])
    producer = await api.client(Role.PRODUCER)
    await request_named(producer, "fan-out", BODY)
    await request_named(producer, "single", BODY | {"destination": "a"})

    places = (("a", "fan-out"), ("b", "fan-out"), ("a", "single"))
    repeats = [await _store_as_earlier(api.site, *place) for place in places]

    assert [repeat.duplicate for repeat in repeats] == [True] * 3


async def test_an_ordered_queue_drops_what_an_earlier_version_stored_again(api: Api, receiver: Scripted) -> None:
    """This version has stored it in the queue, and the earlier one in the work stream."""
    await api.site.destination("orders", receiver.url, ordering="fifo")
    producer = await api.client(Role.PRODUCER)
    await request_named(producer, "k", BODY | {"destination": "orders"})
    assert not (await _store_as_earlier(api.site, "orders", "k")).duplicate
    await _store_as_earlier(api.site, "orders", "next")

    async with api.site.consumer():
        await until(api.site.is_settled, 20)

    assert receiver.ids() == ["k", "next"]


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_what_an_earlier_consumer_moved_is_attempted_without_its_mark(
    site: Site, receiver: Scripted, ordering: str
) -> None:
    """That consumer drops the mark. The claim is young, and may be noted as stored."""
    await site.destination("orders", receiver.url, ordering=ordering)
    ids = site.jetstream.named_ids
    for delivery in ("first", "noted"):
        claim = await ids.claim(TENANT, "orders", delivery, DIGEST)
        if delivery == "noted":
            await ids.mark_stored(claim)
        await _store_as_earlier(site, "orders", delivery)

    async with site.consumer():
        await until(site.is_settled, 10)

    assert _in_order(receiver, ordering) == ["first", "noted"]
