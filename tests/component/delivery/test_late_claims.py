"""What the API stores late: its process or its connection was stalled, and another process may have its claim."""

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from consumers.delivery.id_check import NamedIdCheck, needs_check
from consumers.delivery.named_ids import CLAIM_S, Claim, digest_of
from consumers.model.request import DeliveryAttemptRequest
from consumers.queues.transfer import moved_copy
from consumers.worker.disposition import Disposition
from consumers.worker.load_shedding import overflow_copy_of
from messaging.client.headers import block_of
from messaging.delivery_requests import DeliveryRequest, publish_requests
from messaging.message import Message
from oneprotect.api.operations.named_deliveries import NamedDeliveries
from oneprotect.api.web.rate_limits import TenantLimiter
from schemas import streams, subjects
from schemas.events import CONTENT_TYPE
from schemas.headers import CLAIMED, HEADER_CHECKED, HEADER_CLAIM, HEADER_MSG_ID, HEADER_REASON, late_claim
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

DIGEST = digest_of("invoice.paid", "application/json", b'{"n": 1}')


async def _claim(site: Site) -> Claim:
    return await site.jetstream.named_ids.claim(TENANT, "orders", "k", DIGEST)


def _headers(claim: Claim) -> dict[str, str]:
    """Return the headers of what the API stores under a claim, whose time has passed."""
    return {
        HEADER_MSG_ID: subjects.claimed_msg_id(claim.key, claim.revision),
        HEADER_CHECKED: CLAIMED,
        HEADER_CLAIM: f"{claim.revision} 1",
        "content-type": CONTENT_TYPE,
    }


async def _take_over(site: Site) -> bool:
    """Store the delivery under its id as another process of the API does, and return whether it was stored before."""
    limiter = TenantLimiter(tenant_per_s=100, caller_per_s=100, max_concurrent=10)
    jetstream = site.jetstream
    named = NamedDeliveries(jetstream.connection, jetstream.named_ids, limiter, complete_after_s=0)
    headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", "k"), "content-type": CONTENT_TYPE}
    request = DeliveryRequest(TENANT, "orders", document("orders", delivery="k"), headers)
    (ack,) = await named.store([request], "k", DIGEST, functools.partial(publish_requests, jetstream.publisher))
    return ack.duplicate


async def _refuse(site: Site, headers: dict[str, str], payload: bytes = b'{"n": 1}') -> Disposition | None:
    """Return what a consumer does with a message of the work stream, 30 seconds after the claim on its id."""
    subject, connection = subjects.requested(TENANT, "orders"), site.jetstream.connection
    reply = f"$JS.ACK.{streams.WORK.name}.delivery.1.1.1.{time.time_ns()}.0".encode()
    data = document("orders", delivery="k", payload=payload)
    message = Message(subject, subjects.lane_of(subject), reply, data, block_of(headers), connection)
    delivery = DeliveryAttemptRequest.from_message(message, max_payload_bytes=1000)
    assert needs_check(delivery)
    return await NamedIdCheck(connection, site.jetstream.named_ids, term_s=60, api_term_s=0).refuse(delivery)


@pytest.mark.parametrize(
    ("place", "ordering"),
    [(subjects.requested, "any"), (subjects.overflow, "any"), (subjects.ordered, "fifo"), (subjects.overflow, "fifo")],
)
async def test_what_is_stored_after_its_claim_was_taken_over_is_not_sent(
    site: Site, receiver: Scripted, place: Callable[[str, str], str], ordering: str
) -> None:
    """The delivery is sent once, in its turn, wherever the late message is stored."""
    await site.destination("orders", receiver.url, ordering=ordering)
    claim = await _claim(site)
    stored_before = await _take_over(site)
    async with site.consumer():
        await until(site.is_settled, 20)
        await site.deliver("orders", delivery="next")
        await until(lambda: len(receiver.seen) == 2, 20)
        late = document("orders", delivery="k")
        await site.jetstream.publisher.put(place(TENANT, "orders"), late, _headers(claim))
        await until(site.is_settled, 20)

    assert not stored_before
    assert receiver.ids() == ["k", "next"]


async def test_what_is_stored_late_under_its_own_claim_is_sent(site: Site, receiver: Scripted) -> None:
    """Also after a renewal of the claim."""
    await site.destination("orders", receiver.url)
    claim = await _claim(site)
    await site.jetstream.named_ids.renew(claim.key, DIGEST, datetime.now(UTC), is_stored=False)
    async with site.consumer():
        await site.publish("orders", document("orders", delivery="k"), "k", **_headers(claim))
        await until(site.is_settled, 20)

    assert receiver.ids() == ["k"]


async def test_a_claim_is_not_taken_over_once_a_consumer_sends_what_is_late(site: Site) -> None:
    """The consumer has marked it. Nothing else shows that the delivery is stored."""
    claim = await _claim(site)

    assert await _refuse(site, _headers(claim)) is None
    assert await _take_over(site)


async def test_what_is_late_and_has_another_body_than_the_message_that_took_over_is_quarantined(site: Site) -> None:
    """A trusted publisher's message took over: what the API may have acknowledged is kept."""
    claim = await _claim(site)
    publishers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", "k"), "content-type": CONTENT_TYPE}

    assert await _refuse(site, publishers, b'{"n": 2}') is None
    refusal = await _refuse(site, _headers(claim))

    assert isinstance(refusal, tuple)
    assert [one.headers[HEADER_REASON] for one in refusal] == ["its id was used with another body"]


async def test_consumers_look_at_the_claims_of_what_is_late_alone(site: Site) -> None:
    """The API names the time by the server's clock. A copy of what was stored in time is in time, whenever made."""
    await _take_over(site)
    (stored,) = await site.records(streams.WORK)
    later = stored.stored_at + timedelta(seconds=CLAIM_S)

    assert late_claim(stored.headers, stored.stored_at.timestamp()) == 0
    assert late_claim(stored.headers, later.timestamp()) > 0
    assert HEADER_CLAIM not in moved_copy(streams.WORK.name, stored, "t", is_doubtful=False).headers
    assert HEADER_CLAIM not in overflow_copy_of(streams.WORK.name, stored).headers
    late = replace(stored, stored_at=later)
    assert HEADER_CLAIM in moved_copy(streams.WORK.name, late, "t", is_doubtful=False).headers
    assert HEADER_CLAIM in overflow_copy_of(streams.WORK.name, late).headers


async def test_a_repeat_does_not_count_on_what_is_superseded(site: Site) -> None:
    """The process that took over has died before it stored anything. What is late is not sent, so it proves nothing."""
    claim = await _claim(site)
    row = replace(claim.row, void=claim.revision, since=datetime.now(UTC))
    await site.jetstream.named_ids.replace(claim, row)
    await site.publish("orders", document("orders", delivery="k"), "k", **_headers(claim))

    assert not await _take_over(site)
    assert len(await site.records(streams.WORK)) == 2
