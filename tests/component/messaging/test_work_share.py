"""Shares of the work stream: a tenant with much due work publishes to the overflow, and the others do not."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from messaging.delivery_requests import DeliveryRequest, publish_request, publish_requests
from messaging.work_share import LOOK_AFTER, WorkShare
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.headers import HEADER_MSG_ID, HEADER_SINCE
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

SHARE = 200


def _request(destination: str, delivery: str, tenant: str = TENANT) -> DeliveryRequest:
    headers = {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery)}
    return DeliveryRequest(tenant, destination, document(destination, delivery=delivery, tenant=tenant), headers)


async def test_a_tenant_over_its_share_publishes_to_the_overflow(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Its single requests and its fan-outs go there, and another tenant's requests are due at once."""
    async with Site(tmp_path, nats_server, work_per_tenant=str(SHARE)) as site:
        publisher, numbers = site.jetstream.publisher, iter(range(100_000))

        async def publish(tenant: str) -> str:
            one = _request("orders", f"dlv_{next(numbers)}", tenant)
            return (await publish_request(publisher, tenant, "orders", one.document, one.headers)).stream

        async def is_refused() -> bool:
            return await publish(TENANT) == streams.OVERFLOW.name

        for _ in range(SHARE + 1):
            await publish(TENANT)
        await until(is_refused, 10)
        fan_out = await publish_requests(publisher, [_request(f"d{n}", f"dlv_{next(numbers)}") for n in range(3)])
        others = Counter([await publish("other") for _ in range(SHARE // 2)])
        due = Counter(record.subject.split(".")[3] for record in await site.records(streams.WORK))

    assert {stored.stream for stored in fan_out} == {streams.OVERFLOW.name}
    assert others == {streams.WORK.name: SHARE // 2}
    assert due[TENANT] < 2 * SHARE + LOOK_AFTER


async def test_a_share_is_found_again_when_the_work_is_done(site: Site) -> None:
    """A tenant whose due work was delivered publishes to the work stream again."""
    share, api = WorkShare(site.jetstream.connection, 20), site.jetstream.connection.api
    for number in range(50):
        await site.deliver(f"d{number % 3}")

    def is_exceeded() -> bool:
        return share.is_exceeded(TENANT, 1)

    await until(is_exceeded, 20)
    await api(f"STREAM.PURGE.{streams.WORK.name}")
    await until(lambda: not is_exceeded(), 20)
    await share.aclose()


async def test_shares_shrink_while_there_is_much_due_work(site: Site) -> None:
    """With more than four full shares of due work, a tenant with a small part of that is over its share."""
    share = WorkShare(site.jetstream.connection, 40)
    for number in range(200):
        await site.deliver(f"d{number % 7}")
    for number in range(10):
        await site.jetstream.publisher.publish(_request("orders", f"dlv_{number}", "few").on(subjects.requested))

    await until(lambda: share.is_exceeded("few", 1), 20)
    await share.aclose()


async def test_a_fan_out_counts_each_of_its_deliveries(site: Site) -> None:
    """A few large fan-outs cause a look at the tenant's due work."""
    share = WorkShare(site.jetstream.connection, 20)
    for number in range(50):
        await site.deliver(f"d{number % 3}")

    assert not share.is_exceeded(TENANT, LOOK_AFTER - 1)
    await until(lambda: share.is_exceeded(TENANT, LOOK_AFTER), 20)
    await share.aclose()


async def test_a_fan_out_in_the_overflow_asks_for_results_before_it_is_sent(
    tmp_path: Path, nats_server: EmbeddedNats
) -> None:
    """If the removal after an early move fails, the feeder moves the request again."""
    async with Site(tmp_path, nats_server, work_per_destination="1") as site:
        await site.deliver("full")
        requests = [_request(destination, "dlv_x") for destination in ("full", "free")]
        await publish_requests(site.jetstream.publisher, requests)
        (kept,) = await site.records(streams.OVERFLOW)
        moved = (await site.records(streams.WORK))[-1]

    assert (kept.subject, moved.subject) == (subjects.overflow(TENANT, "full"), subjects.requested(TENANT, "free"))
    assert kept.stored_at - timedelta(hours=1) < datetime.fromisoformat(kept.headers[HEADER_SINCE]) < kept.stored_at
    assert HEADER_SINCE not in moved.headers
