"""Ids that trusted publishers name: a repeat is not sent again, whatever the servers forgot in between."""

import asyncio

import pytest

from consumers.delivery.id_check import ClaimedElsewhere, NamedIdCheck
from consumers.delivery.named_ids import Claim, digest_of
from consumers.model.request import DeliveryAttemptRequest
from consumers.worker.disposition import Disposition
from messaging.client.connection import IncomingMessage
from messaging.client.headers import block_of
from messaging.message import Message
from oneprotect.dev.nats_server import free_port
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID
from tests.support.ops import Ops
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

TERM_S = 60.0
DIGEST = digest_of("invoice.paid", "application/json", b'{"n": 1}')


async def _restart(site: Site) -> None:
    """Restart the server, which forgets the ids of removed messages."""
    await site.server.restart()  # a killed one may still have them, as it removes messages late
    await until(lambda: site.jetstream.connection.is_connected, 20)


async def _deliver(site: Site, destination: str, delivery: str, payload: bytes = b'{"n": 1}') -> None:
    for _ in range(50):
        try:
            await site.deliver(destination, delivery=delivery, payload=payload)
        except Exception:  # noqa: BLE001 - JetStream is not up yet
            await asyncio.sleep(0.1)
        else:
            return


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_a_repeat_after_a_restart_of_nats_is_not_sent_again(
    site: Site, receiver: Scripted, ordering: str
) -> None:
    """The message is acknowledged, and no second attempt is recorded."""
    await site.destination("orders", receiver.url, ordering=ordering)
    async with site.consumer():
        await site.deliver("orders", delivery="one")
        await until(site.is_settled, 20)
        await _restart(site)
        await _deliver(site, "orders", "one")
        await _deliver(site, "orders", "two")
        await until(lambda: "two" in receiver.ids(), 20)
        await until(site.is_settled, 20)

    assert receiver.ids() == ["one", "two"]
    outcomes = [result.outcome for result in await site.results("one")]
    assert [outcome for outcome in outcomes if outcome is not Outcome.SUPPRESSED] == [Outcome.DELIVERED]


async def test_a_repeat_of_what_was_attempted_reads_nothing_that_waits(site: Site, receiver: Scripted) -> None:
    """The API has claimed the id. A thousand repeats would read each other a thousand times."""
    await site.destination("orders", receiver.url)
    claim = await site.jetstream.named_ids.claim(TENANT, "orders", "one", DIGEST)
    headers = {HEADER_CHECKED: "named", HEADER_MSG_ID: subjects.claimed_msg_id(claim.key, claim.revision)}
    read: list[str] = []

    async def note(request: IncomingMessage) -> None:
        read.append(request.subject.rpartition(".")[2])

    async with site.consumer():
        await site.publish("orders", document("orders", delivery="one"), "one", **headers)
        await until(site.is_settled, 20)
        subscription = await site.jetstream.connection.subscribe("$JS.API.DIRECT.GET.*", note)
        await site.deliver("orders", delivery="one")
        await until(site.is_settled, 20)
        await subscription.unsubscribe()

    assert receiver.ids() == ["one"]
    assert streams.ATTEMPTS.name in read
    assert not {streams.WORK.name, streams.OVERFLOW.name, streams.ORDERED.name} & set(read)


async def test_a_repeat_with_another_body_is_quarantined(site: Site, receiver: Scripted) -> None:
    """A publisher gets no answer, so the message is kept. It is counted."""
    ops = Ops(free_port())
    await site.destination("orders", receiver.url)
    async with site.consumer_process(environ={"ONEPROTECT_OPS_PORT": str(ops.port)}):
        await site.deliver("orders", delivery="one")
        await until(site.is_settled, 20)
        await _restart(site)
        await _deliver(site, "orders", "one", b'{"n": 2}')
        await until(lambda: _has_quarantined(site), 20)
        counted = await ops.value("oneprotect_repeated_ids_total")

    (kept,) = await site.records(streams.QUARANTINE)
    assert kept.headers["Oneprotect-Reason"] == "its id was used with another body"
    assert receiver.ids() == ["one"]
    assert counted is not None
    assert counted >= 1, "a message that comes again is counted again"


async def _has_quarantined(site: Site) -> bool:
    return bool(await site.records(streams.QUARANTINE))


async def test_a_repeat_of_a_delivery_that_waits_for_a_retry_is_not_sent(site: Site) -> None:
    """One schedule remains."""
    async with Scripted([500]) as receiver:
        await site.destination("orders", receiver.url, retry_schedule_s=[3600])
        async with site.consumer():
            await site.deliver("orders", delivery="one")
            await until(lambda: _count(site, streams.RETRIES), 20)
            await until(lambda: _is_empty(site, streams.WORK), 20)
            await _restart(site)
            await _deliver(site, "orders", "one")
            await until(lambda: _is_empty(site, streams.WORK), 20)

        assert receiver.ids() == ["one"]
        assert await _count(site, streams.RETRIES) == 1


async def _count(site: Site, stream: streams.StreamConfig) -> int:
    return len(await site.records(stream))


async def _is_empty(site: Site, stream: streams.StreamConfig) -> bool:
    return not await site.records(stream)


async def _check(
    site: Site, sequence: int, *, term_s: float = TERM_S, payload: bytes = b'{"n": 1}'
) -> Disposition | None:
    """Return what the check says about a message of the work stream with the id `one`."""
    subject = subjects.requested(TENANT, "orders")
    reply = f"$JS.ACK.{streams.WORK.name}.delivery.1.{sequence}.{sequence}.0.0".encode()
    headers = {"content-type": CONTENT_TYPE, HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", "one")}
    data, connection = document("orders", delivery="one", payload=payload), site.jetstream.connection
    message = Message(subject, subjects.lane_of(subject), reply, data, block_of(headers), connection)
    delivery = DeliveryAttemptRequest.from_message(message, max_payload_bytes=1000)
    return await NamedIdCheck(connection, site.jetstream.named_ids, term_s=term_s, api_term_s=term_s).refuse(delivery)


async def test_a_redelivery_of_the_message_that_has_the_claim_is_attempted(site: Site) -> None:
    """Its consumer died after the claim. The claim is renewed, so that no other message takes it over meanwhile."""
    assert await _check(site, 7) is None
    claimed = (await site.jetstream.named_id_rows.list())[0].revision

    assert await _check(site, 7) is None
    assert (await site.jetstream.named_id_rows.list())[0].revision > claimed


async def test_the_claim_of_a_message_without_a_result_delays_another_one(site: Site) -> None:
    """After the term its owner is gone, and the other message is attempted: a claim loses nothing."""
    assert await _check(site, 7) is None

    with pytest.raises(ClaimedElsewhere):
        await _check(site, 8)
    assert await _check(site, 8, term_s=0) is None
    with pytest.raises(ClaimedElsewhere):
        await _check(site, 7)


async def test_one_message_alone_takes_over_an_old_claim(site: Site) -> None:
    """The others wait for its result, although the claim that they found was old."""
    assert await _check(site, 7) is None
    claim = await site.jetstream.named_ids.claim(TENANT, "orders", "one", DIGEST)
    await until(lambda: _is_older(site, claim))

    answers = await asyncio.gather(*(_check(site, number, term_s=1) for number in range(8, 16)), return_exceptions=True)

    assert answers.count(None) == 1
    assert sum(isinstance(answer, ClaimedElsewhere) for answer in answers) == 7


async def _is_older(site: Site, claim: Claim) -> bool:
    return await site.jetstream.named_ids.age_s(claim) > 1


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_a_message_with_an_id_of_the_api_is_attempted_without_its_mark(
    site: Site, receiver: Scripted, ordering: str
) -> None:
    """A consumer of an earlier version has moved it: that drops the mark, and keeps the id."""
    await site.destination("orders", receiver.url, ordering=ordering)
    ids = site.jetstream.named_ids
    claim = await ids.claim(TENANT, "orders", "one", DIGEST)
    await ids.replace(claim, type(claim.row)(digest=DIGEST, is_stored=True))

    async with site.consumer():
        headers = {HEADER_MSG_ID: subjects.claimed_msg_id(claim.key, claim.revision)}
        await site.publish("orders", document("orders", delivery="one"), "one", **headers)
        await until(lambda: receiver.seen, 20)

    assert receiver.ids() == ["one"]


async def test_messages_that_the_api_marked_are_not_checked(site: Site, receiver: Scripted) -> None:
    """They store no claim, also when another delivery has claimed the id."""
    await site.destination("orders", receiver.url)
    await site.jetstream.named_ids.claim(TENANT, "orders", "one", DIGEST)

    async with site.consumer():
        headers = {HEADER_CHECKED: "1"}
        await site.publish("orders", document("orders", delivery="one"), "one", **headers)
        await until(site.is_settled, 20)

    assert receiver.ids() == ["one"]


async def test_another_body_waits_for_the_claim_of_the_api(site: Site) -> None:
    """What the API has not stored may never be stored. Then the message is attempted, and not quarantined."""
    await site.jetstream.named_ids.claim(TENANT, "orders", "one", DIGEST)
    await site.deliver("orders", delivery="one", payload=b'{"n": 2}')

    with pytest.raises(ClaimedElsewhere):
        await _check(site, 1, payload=b'{"n": 2}')
    assert await _check(site, 1, payload=b'{"n": 2}', term_s=0) is None


async def test_another_body_is_quarantined_when_the_api_has_stored_its_delivery(site: Site, receiver: Scripted) -> None:
    """It came first, waited for the claim, and is redelivered after the API's delivery has a result on record."""
    await site.destination("orders", receiver.url)
    claim = await site.jetstream.named_ids.claim(TENANT, "orders", "one", DIGEST)
    await site.deliver("orders", delivery="one", payload=b'{"n": 2}')

    async with site.consumer():
        await until(lambda: _is_returned(site), 20)
        headers = {HEADER_CHECKED: "named", HEADER_MSG_ID: f"{claim.key}.c{claim.revision}"}
        await site.publish("orders", document("orders", delivery="one"), "one", **headers)
        await until(site.is_settled, 20)

    (kept,) = await site.records(streams.QUARANTINE)
    assert kept.headers["Oneprotect-Reason"] == "its id was used with another body"
    assert [seen.body for seen in receiver.seen] == [b'{"n": 1}']
    assert [result.outcome for result in await site.results("one")] == [Outcome.DELIVERED]


async def _is_returned(site: Site) -> bool:
    consumer = streams.WORK_CONSUMER
    info = await site.jetstream.connection.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
    return bool(info["num_ack_pending"]) and not info["num_pending"]


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_an_overflowed_message_is_moved_although_the_work_stream_knows_its_id(
    site: Site, receiver: Scripted, ordering: str
) -> None:
    """The id is that of an invalid message, which is in the quarantine."""
    await site.destination("orders", receiver.url, ordering=ordering)
    async with site.consumer():
        await site.publish("orders", document("elsewhere", delivery="one"), "one")
        await until(lambda: _has_quarantined(site), 20)
        headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", "one"), "content-type": CONTENT_TYPE}
        body = document("orders", delivery="one")
        await site.jetstream.publisher.put(subjects.overflow(TENANT, "orders"), body, headers)
        await until(receiver.ids, 20)
        await until(site.is_settled, 20)

    assert receiver.ids() == ["one"]
