"""Ids that producers name: each destination gets an id once, whatever restarts, and a repeat gets the first answer."""

import asyncio
import functools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.delivery.claim_renewal import ClaimRenewal
from consumers.delivery.named_ids import digest_of
from consumers.retries.server_clock import ServerClock
from messaging.delivery_requests import DeliveryRequest, publish_requests
from messaging.management import purge_pattern
from oneprotect.api.operations.named_deliveries import NamedDeliveries
from oneprotect.api.web.problems import Problem
from oneprotect.api.web.rate_limits import TenantLimiter
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID, HEADER_REASON, HEADER_SINCE
from schemas.roles import Role
from tests.support.api import Api, Client, Reply, duplicates_in, request_named, running
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

DELIVERIES = f"/v1/tenants/{TENANT}/deliveries"
BODY: dict[str, Any] = {"event_type": "invoice.paid", "destination": "orders", "payload": {"n": 1}}
WINDOW_S = 4.0
DIGEST = digest_of("invoice.paid", "application/json", b'{"n": 1}')


async def _request(producer: Client, key: str, body: dict[str, Any] = BODY) -> Reply:
    return await request_named(producer, key, body)


async def test_a_repeat_after_a_restart_of_nats_is_delivered_once(api: Api, receiver: Scripted) -> None:
    """The server has forgotten the `Nats-Msg-Id` of what was delivered; the claim is stored."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    async with api.site.consumer():
        first = [await _request(producer, f"k{n}") for n in range(5)]
        await until(api.site.is_settled, 20)
        await api.site.server.kill()
        await api.site.server.restart()
        again = [await _request(producer, f"k{n}") for n in range(5)]
        await until(api.site.is_settled, 20)

    assert [duplicates_in(reply) for reply in first] == [{"orders": False}] * 5
    assert [duplicates_in(reply) for reply in again] == [{"orders": True}] * 5
    assert [reply.json["id"] for reply in again] == [reply.json["id"] for reply in first]
    assert sorted(receiver.ids()) == [f"k{n}" for n in range(5)]


async def test_another_process_of_the_api_knows_a_repeat(api: Api, receiver: Scripted) -> None:
    """It finds the delivery as waiting or as attempted, also after a restart of NATS."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    await _request(producer, "waits")
    async with api.site.consumer():
        await _request(producer, "sent")
        await until(lambda: len(receiver.seen) == 2, 20)
        await until(api.site.is_settled, 20)
    await _request(producer, "pending")
    await api.site.server.kill()
    await api.site.server.restart()

    async with running(api.site) as other:
        replies = [await _request(await other.client(Role.PRODUCER), key) for key in ("waits", "sent", "pending")]

    assert [duplicates_in(reply) for reply in replies] == [{"orders": True}] * 3
    assert len(await api.site.records(streams.WORK)) == 1


@pytest.mark.parametrize(
    "other", [{"payload": {"n": 2}}, {"event_type": "invoice.sent"}, {"content_type": "application/x+json"}]
)
async def test_another_body_under_a_used_id_is_refused(api: Api, receiver: Scripted, other: dict[str, Any]) -> None:
    """The problem says what to do, and nothing is stored."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    await _request(producer, "k")

    refused = await _request(producer, "k", BODY | other)

    assert (refused.status, refused.json["type"]) == (409, "urn:oneprotect:problem:id-used")
    assert duplicates_in(await _request(producer, "k")) == {"orders": True}
    assert len(await api.site.records(streams.WORK)) == 1


async def test_concurrent_repeats_are_stored_once(api: Api, receiver: Scripted) -> None:
    """Each of them is accepted, over two processes, and one is the first."""
    await api.site.destination("orders", receiver.url)
    async with running(api.site) as other:
        producers = [await one.client(Role.PRODUCER) for one in (api, other)]
        replies = await asyncio.gather(*(_request(producers[n % 2], "k") for n in range(20)))

    assert sorted(duplicates_in(reply)["orders"] for reply in replies) == [False] + [True] * 19
    assert len(await api.site.records(streams.WORK)) == 1


async def test_a_repeated_fan_out_reaches_each_destination_once(api: Api, receiver: Scripted) -> None:
    """A destination that has subscribed since gets the delivery, unless the body is another one."""
    for name in ("a", "b"):
        await api.site.destination(name, receiver.url, event_types=["*"])
    producer = await api.client(Role.PRODUCER)
    body = {"event_type": "invoice.paid", "payload": 1}
    first = await _request(producer, "k", body)
    await api.site.destination("c", receiver.url, event_types=["*"])

    other = await _request(producer, "k", body | {"payload": 2})
    again = await _request(producer, "k", body)

    assert duplicates_in(first) == {"a": False, "b": False}
    assert other.status == 409
    assert duplicates_in(again) == {"a": True, "b": True, "c": False}
    stored = [subjects.tenant_and_destination(record.subject)[1] for record in await api.site.records(streams.WORK)]
    assert sorted(stored) == ["a", "b", "c"]


async def test_an_overflowed_request_whose_answer_was_lost_is_stored_once(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """The work stream has room by now, and the repeat finds the delivery in the overflow."""
    async with Site(tmp_path, nats_server, work_per_destination="1") as site, running(site) as api:
        await site.destination("orders", receiver.url)
        producer = await api.client(Role.PRODUCER)
        await _request(producer, "fills")
        digest = digest_of("invoice.paid", "application/json", b'{"n":1}')
        await site.jetstream.named_ids.claim(TENANT, "orders", "k", digest)  # the first request, whose answer
        headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", "k"), HEADER_CHECKED: "1"}
        body = document("orders", delivery="k", payload=b'{"n":1}')
        await site.jetstream.publisher.put(subjects.overflow(TENANT, "orders"), body, headers)  # was lost
        await site.jetstream.publisher.remove(streams.WORK.name, 1)

        reply = await _request(producer, "k")

        async with site.consumer():
            await until(site.is_settled, 20)

    assert duplicates_in(reply) == {"orders": True}
    assert receiver.ids() == ["k"]


def _named_deliveries(site: Site, **options: float) -> NamedDeliveries:
    limiter = TenantLimiter(tenant_per_s=1000, caller_per_s=1000, max_concurrent=10)
    return NamedDeliveries(site.jetstream.connection, site.jetstream.named_ids, limiter, **options)


async def _store(site: Site, **options: float) -> bool:
    """Store the delivery `k` under its id, and return whether it was stored before."""
    publish = functools.partial(publish_requests, site.jetstream.publisher)
    (ack,) = await _named_deliveries(site, **options).store([_delivery_request("k")], "k", DIGEST, publish)
    return ack.duplicate


def _delivery_request(delivery: str) -> DeliveryRequest:
    headers = {HEADER_MSG_ID: subjects.msg_id(TENANT, "orders", delivery), HEADER_CHECKED: "1"}
    return DeliveryRequest(TENANT, "orders", document("orders", delivery=delivery), headers)


async def test_a_claim_without_a_delivery_is_completed_when_no_process_can_be_at_it(
    site: Site, receiver: Scripted
) -> None:
    """Until then the producer is asked to come again. The consumer looks for results before it sends."""
    await site.destination("orders", receiver.url)
    await site.jetstream.named_ids.claim(TENANT, "orders", "k", DIGEST)  # and then the process died

    with pytest.raises(Problem) as early:
        await _store(site)
    late = await _store(site, complete_after_s=0)
    again = await _store(site)

    (stored,) = await site.records(streams.WORK)
    async with site.consumer():
        await until(site.is_settled, 20)
    assert (early.value.status, early.value.kind) == (503, "in-progress")
    assert [late, again] == [False, True]
    assert HEADER_SINCE in stored.headers
    assert receiver.ids() == ["k"]


async def test_one_process_alone_completes_a_claim(site: Site, receiver: Scripted) -> None:
    """The others ask the producer to come again."""
    await site.destination("orders", receiver.url)
    await site.jetstream.named_ids.claim(TENANT, "orders", "k", DIGEST)

    async def complete() -> bool:
        try:
            return not await _store(site, complete_after_s=0)
        except Problem:
            return False

    assert (await asyncio.gather(*(complete() for _ in range(8)))).count(True) == 1
    assert len(await site.records(streams.WORK)) == 1


async def test_ids_that_the_api_makes_are_not_remembered(api: Api, receiver: Scripted) -> None:
    """They cost no claim, and the message tells the consumer so."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)

    await producer("POST", DELIVERIES, BODY)
    async with api.site.consumer():
        await until(api.site.is_settled, 20)

    assert len(receiver.seen) == 1
    assert await api.site.jetstream.named_id_rows.list_keys() == []


async def test_a_tenant_has_a_quota_of_named_ids(site: Site, receiver: Scripted) -> None:
    """The problem names the setting; repeats and requests without an id are accepted."""
    await site.destination("orders", receiver.url)
    async with running(site, tenant_max_named_ids="2") as api:
        producer = await api.client(Role.PRODUCER)
        replies = [await _request(producer, key) for key in ("a", "b")]
        await until(lambda: _is_refused(producer), 40)
        refused = await _request(producer, "c")
        again = await _request(producer, "a")
        unnamed = await producer("POST", DELIVERIES, BODY)

    assert [reply.status for reply in (*replies, again, unnamed)] == [202] * 4
    assert (refused.status, refused.json["type"]) == (409, "urn:oneprotect:problem:quota-exceeded")
    assert "ONEPROTECT_TENANT_MAX_NAMED_IDS" in refused.json["detail"]


async def _is_refused(producer: Client) -> bool:
    return (await _request(producer, "d")).status == 409


async def test_ids_are_not_remembered_without_a_window(site: Site, receiver: Scripted) -> None:
    """With 0, the duplicate window of the work stream is all there is."""
    await site.destination("orders", receiver.url)
    async with running(site, idempotency_window_s="0") as api:
        producer = await api.client(Role.PRODUCER)
        replies = [await _request(producer, "k"), await _request(producer, "k", BODY | {"payload": 2})]

    assert [duplicates_in(reply) for reply in replies] == [{"orders": False}, {"orders": True}]
    assert await site.jetstream.named_id_rows.list_keys() == []


OTHER = b'{"n": 2}'


async def _quarantine_reasons(site: Site) -> list[str]:
    return [record.headers[HEADER_REASON] for record in await site.records(streams.QUARANTINE)]


async def test_an_id_under_which_an_invalid_message_was_quarantined_is_delivered(api: Api, receiver: Scripted) -> None:
    """JetStream knows the `Nats-Msg-Id` of the trusted publisher's message, which has nothing to do with this one."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    async with api.site.consumer():
        await api.site.publish("orders", document("elsewhere", delivery="k"), "k")
        await until(lambda: _quarantine_reasons(api.site), 20)
        reply = await _request(producer, "k")
        await until(api.site.is_settled, 20)

    assert duplicates_in(reply) == {"orders": False}
    assert receiver.ids() == ["k"]


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_a_message_of_a_trusted_publisher_is_no_proof_that_the_delivery_is_stored(
    api: Api, receiver: Scripted, ordering: str
) -> None:
    """The API has claimed the id first, so its delivery is sent, and the other body is in the quarantine."""
    await api.site.destination("orders", receiver.url, ordering=ordering)
    producer = await api.client(Role.PRODUCER)
    await api.site.deliver("orders", delivery="k", payload=OTHER)

    reply = await _request(producer, "k")
    async with api.site.consumer():
        await until(lambda: _quarantine_reasons(api.site), 20)
        await until(api.site.is_settled, 20)

    assert duplicates_in(reply) == {"orders": False}
    assert [seen.body for seen in receiver.seen] == [b'{"n":1}']
    assert await _quarantine_reasons(api.site) == ["its id was used with another body"]


async def test_a_fan_out_reaches_each_destination_although_a_publisher_used_its_id(
    api: Api, receiver: Scripted
) -> None:
    """All or none: the message of the trusted publisher at one destination counts at none."""
    for name in ("a", "b"):
        await api.site.destination(name, receiver.url, event_types=["*"])
    producer = await api.client(Role.PRODUCER)
    await api.site.publish("b", document("b", delivery="k", payload=OTHER), "k")

    reply = await _request(producer, "k", {"event_type": "invoice.paid", "payload": {"n": 1}})
    async with api.site.consumer():
        await until(lambda: _quarantine_reasons(api.site), 20)
        await until(api.site.is_settled, 20)

    assert duplicates_in(reply) == {"a": False, "b": False}
    assert [seen.body for seen in receiver.seen] == [b'{"n":1}'] * 2


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_an_id_that_is_forgotten_within_ten_minutes_is_delivered_again(
    api: Api, receiver: Scripted, ordering: str
) -> None:
    """As after the removal of a tenant of the same name: JetStream still knows what it stored."""
    await api.site.destination("orders", receiver.url, ordering=ordering)
    producer = await api.client(Role.PRODUCER)
    async with api.site.consumer():
        await _request(producer, "k")
        await until(api.site.is_settled, 20)
        await api.site.jetstream.named_id_rows.delete(f"{TENANT}.orders.k")
        await purge_pattern(api.site.jetstream.connection, streams.ATTEMPTS.name, ">")
        again = await _request(producer, "k", BODY | {"payload": {"n": 2}})
        await until(api.site.is_settled, 20)

    assert duplicates_in(again) == {"orders": False}
    assert [seen.body for seen in receiver.seen] == [b'{"n":1}', b'{"n":2}']


async def test_a_process_that_stored_an_id_knows_a_later_claim_from_its_own(site: Site, receiver: Scripted) -> None:
    """Another process has claimed the id after it was forgotten, and has stored nothing."""
    await site.destination("orders", receiver.url)
    named, publish = _named_deliveries(site), functools.partial(publish_requests, site.jetstream.publisher)
    request = [_delivery_request("k")]
    (first,) = await named.store(request, "k", DIGEST, publish)
    await site.jetstream.publisher.remove(first.stream, first.seq)
    await site.jetstream.named_id_rows.delete(f"{TENANT}.orders.k")
    await site.jetstream.named_ids.claim(TENANT, "orders", "k", DIGEST)

    with pytest.raises(Problem) as asked:
        await named.store(request, "k", DIGEST, publish)

    assert asked.value.status == 503


@pytest.mark.parametrize("payload", [b'{"n": 1}', OTHER])
async def test_a_repeat_does_not_take_the_message_of_a_publisher_for_its_own(
    site: Site, receiver: Scripted, payload: bytes
) -> None:
    """The first request died before it stored its delivery. The message waits for it, whatever its body is."""
    await site.destination("orders", receiver.url)
    await site.jetstream.named_ids.claim(TENANT, "orders", "k", DIGEST)
    await site.deliver("orders", delivery="k", payload=payload)

    with pytest.raises(Problem) as early:
        await _store(site)
    late = await _store(site, complete_after_s=0)
    async with site.consumer():
        await until(site.is_settled, 20)

    assert early.value.status == 503
    assert late is False
    assert [seen.body for seen in receiver.seen] == [b'{"n": 1}']
    assert len(await _quarantine_reasons(site)) == (payload == OTHER)


@pytest.mark.parametrize("payload", [1, 2])
async def test_a_publishers_message_in_an_ordered_queue_gives_way_to_the_api(api: Api, payload: int) -> None:
    """Both wait behind the head, the publisher's first. The queue does not stop, and only the API's message is sent."""
    async with Scripted([500]) as receiver:
        await api.site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[2])
        producer = await api.client(Role.PRODUCER)
        async with api.site.consumer():
            await _request(producer, "head")
            await until(receiver.ids, 20)
            receiver.script = [200]
            await api.site.deliver("orders", delivery="k", payload=b'{"n":%d}' % payload)
            reply = await _request(producer, "k")
            await until(api.site.is_settled, 15)

    assert duplicates_in(reply) == {"orders": False}
    assert receiver.ids() == ["head", "head", "k"]
    assert len(await _quarantine_reasons(api.site)) == (payload == 2)


async def test_an_id_is_remembered_while_its_delivery_waits(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A single wait outlasts the window: in the overflow, in an ordered queue, or between two attempts."""
    site = Site(tmp_path, nats_server, work_per_destination="1")
    short = msgspec.structs.replace(site.settings.nats, idempotency_window_s=WINDOW_S)
    site.settings = msgspec.structs.replace(site.settings, nats=short)
    waits: dict[str, dict[str, Any]] = {
        "overflow": {"timeout_s": 30},
        "queue": {"timeout_s": 30, "ordering": "fifo"},
        "retry": {"retry_schedule_s": [WINDOW_S + 3]},
        "head": {"retry_schedule_s": [WINDOW_S + 3], "ordering": "fifo"},
    }
    loop = asyncio.get_running_loop()
    async with site, Scripted([200]) as busy, Scripted([500, 200]) as failing:
        busy.hold = asyncio.Event()
        async with running(site) as api, site.consumer():
            producer = await api.client(Role.PRODUCER)
            for name, fields in waits.items():
                await site.destination(name, failing.url if "retry_schedule_s" in fields else busy.url, **fields)
            for name in ("overflow", "queue"):  # the named delivery waits behind this one
                await producer("POST", DELIVERIES, BODY | {"destination": name})
            await until(lambda: len(busy.seen) == 2, 20)
            for name in waits:
                await _request(producer, name, BODY | {"destination": name})
            await until(lambda: len(failing.seen) == 2, 20)
            forgotten_at = loop.time() + WINDOW_S + 1
            await until(lambda: loop.time() > forgotten_at, WINDOW_S + 5)
            other = [await _request(producer, name, BODY | {"destination": name, "payload": 2}) for name in waits]
            busy.hold.set()
            await until(site.is_settled, 20)
            again = [await _request(producer, name, BODY | {"destination": name}) for name in waits]

    assert [reply.status for reply in other] == [409] * 4
    assert [duplicates_in(reply) for reply in again] == [{name: True} for name in waits]
    assert len(busy.seen) == 4
    assert sorted(failing.ids()) == ["head", "head", "retry", "retry"]


async def test_only_old_claims_of_waiting_deliveries_are_written_again(site: Site) -> None:
    """One consumer does so at a time. A claim that was forgotten is made again, for what the API has stored."""
    ids, connection = site.jetstream.named_ids, site.jetstream.connection
    await site.destination("orders", "https://127.0.0.1/in")
    async with running(site) as api:
        producer = await api.client(Role.PRODUCER)
        for key in ("kept", "forgotten"):
            await _request(producer, key)
        await producer("POST", DELIVERIES, BODY)
        await site.deliver("orders", delivery="unclaimed")
        before = {row.key: row.revision for row in await site.jetstream.named_id_rows.list()}
        await purge_pattern(connection, f"KV_{streams.NAMED_IDS.name}", f"$KV.{streams.NAMED_IDS.name}.*.*.forgotten")

        stop = asyncio.Event()
        create = functools.partial(
            ClaimRenewal, connection, ids, site.jetstream.leases, ServerClock(connection), worker="test"
        )
        young, old = create(window_s=3600), create(window_s=0.004)
        await asyncio.gather(young.take_turn(stop), young.take_turn(stop))
        assert young.renewed == 0
        await old.take_turn(stop)
        assert old.renewed == 0
        await site.jetstream.leases.delete("_named_ids.renewal")
        await old.take_turn(stop)
        after = {row.key: row.revision for row in await site.jetstream.named_id_rows.list()}
        again = [await _request(producer, key) for key in ("kept", "forgotten")]

    assert old.renewed == 2
    assert after.keys() == before.keys()
    assert all(after[key] > before[key] for key in before)
    assert [duplicates_in(reply) for reply in again] == [{"orders": True}] * 2
