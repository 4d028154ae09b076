"""Deliveries over HTTP: accepted when stored, fanned out under one id, and shown with their state."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.events import decode_request
from schemas.headers import HEADER_MSG_ID
from schemas.roles import Role
from tests.support.api import Api, Client, running
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

DELIVERIES = f"/v1/tenants/{TENANT}/deliveries"
BODY: dict[str, Any] = {"event_type": "invoice.paid", "destination": "orders", "payload": {"n": 1}}


async def test_an_accepted_payload_arrives_byte_for_byte(api: Api, receiver: Scripted) -> None:
    """The receiver gets the payload unchanged, and the state is delivered with one attempt."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    payload = b'{"a" :  1.50, "\\u00e4":"\xc3\xa4"}'

    async with api.site.consumer():
        accepted = await producer(
            "POST", DELIVERIES, data=b'{"event_type":"invoice.paid","destination":"orders","payload":' + payload + b"}"
        )
        await until(api.site.is_settled, 10)

    assert accepted.status == 202
    (delivery,) = accepted.json["deliveries"]
    assert (delivery["destination"], delivery["duplicate"]) == ("orders", False)
    assert accepted.headers["location"] == f"{DELIVERIES}/{accepted.json['id']}"
    assert [(seen.id, seen.body) for seen in receiver.seen] == [(accepted.json["id"], payload)]
    shown = await producer("GET", accepted.headers["location"])
    (standing,) = shown.json["deliveries"]
    assert (standing["destination"], standing["state"]) == ("orders", "delivered")
    assert [attempt["code"] for attempt in standing["attempts"]] == ["http.2xx"]


async def test_a_body_that_is_no_json_goes_in_base64(api: Api, receiver: Scripted) -> None:
    """With its content type."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    encoded = base64.b64encode(b"\x00<xml/>").decode()

    async with api.site.consumer():
        reply = await producer(
            "POST",
            DELIVERIES,
            {"event_type": "a", "destination": "orders", "payload_base64": encoded, "content_type": "text/xml"},
        )
        await until(api.site.is_settled, 10)

    assert reply.status == 202
    assert [(seen.body, seen.headers["content-type"]) for seen in receiver.seen] == [(b"\x00<xml/>", "text/xml")]


async def test_the_same_idempotency_key_stores_once(api: Api, receiver: Scripted) -> None:
    """`Idempotency-Key` is the delivery id, and a repeated request stores nothing."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)

    replies = [await producer("POST", DELIVERIES, BODY, headers={"Idempotency-Key": "order-1"}) for _ in range(3)]
    replies.append(await producer("POST", DELIVERIES, {**BODY, "id": "order-1"}))

    assert [reply.status for reply in replies] == [202] * 4
    assert [reply.json["deliveries"][0]["duplicate"] for reply in replies] == [False, True, True, True]
    assert {reply.json["id"] for reply in replies} == {"order-1"}
    assert len(await api.site.records(streams.WORK)) == 1


async def test_key_and_id_must_agree(api: Api, receiver: Scripted) -> None:
    """Otherwise nothing is stored."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)

    differing = await producer("POST", DELIVERIES, {**BODY, "id": "one"}, headers={"Idempotency-Key": "two"})
    malformed = await producer("POST", DELIVERIES, BODY, headers={"Idempotency-Key": "a key"})

    assert (differing.status, differing.json["errors"][0]["field"]) == (422, "id")
    assert (malformed.status, malformed.json["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert await api.site.records(streams.WORK) == []


async def test_a_delivery_without_a_destination_goes_to_all_subscribers(api: Api, receiver: Scripted) -> None:
    """Enabled destinations match by exact type, prefix or `*`, and share one delivery id."""
    for name, event_types in (
        ("all", ["*"]), ("exact", ["invoice.paid"]), ("group", ["invoice.*"]), ("other", ["order.*"]), ("none", []),
        ("off", ["*"]),
    ):  # fmt: skip
        await api.site.destination(name, receiver.url, event_types=event_types)
    await api.site.jetstream.configuration.disable_destination(TENANT, "off", by="test")
    producer = await api.client(Role.PRODUCER)

    reply = await producer("POST", DELIVERIES, {"event_type": "invoice.paid", "payload": 1})

    assert reply.status == 202
    assert [one["destination"] for one in reply.json["deliveries"]] == ["all", "exact", "group"]
    stored = [decode_request(record.data) for record in await api.site.records(streams.WORK)]
    assert {one.id for one in stored} == {reply.json["id"]}
    assert sorted(one.data.destination for one in stored) == ["all", "exact", "group"]


async def test_a_changed_subscription_applies_at_once(api: Api, receiver: Scripted) -> None:
    """Every process follows a tenant's change, because the bucket announces it."""
    await api.site.destination("orders", receiver.url, event_types=["*"])
    producer = await api.client(Role.PRODUCER)
    assert await _addressed(producer) == ["orders"]

    await api.site.destination("orders", receiver.url, event_types=[])
    await until(lambda: _addressed_are(producer, []))
    await api.site.destination("later", receiver.url, event_types=["*"])
    await until(lambda: _addressed_are(producer, ["later"]))
    await api.site.jetstream.configuration.delete_destination(TENANT, "later", by="test")
    await until(lambda: _addressed_are(producer, []))


async def _addressed(producer: Client) -> list[str]:
    reply = await producer("POST", DELIVERIES, {"event_type": "a.b", "payload": 1})
    return [one["destination"] for one in reply.json["deliveries"]]


async def _addressed_are(producer: Client, names: list[str]) -> bool:
    return await _addressed(producer) == names


async def test_a_fan_out_to_one_that_is_full_reaches_all_the_same(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The full one's waits in the overflow, the others' are due at once; repeated, nothing is added."""
    async with Site(tmp_path, nats_server, work_per_destination="2") as site, Scripted() as receiver:
        for name in ("full", "one", "two"):
            await site.destination(name, receiver.url, event_types=["*"])
        async with running(site) as api:
            producer = await api.client(Role.PRODUCER)
            for _ in range(2):
                await site.deliver("full")

            body = {"event_type": "a.b", "payload": 1, "id": "fanned-out"}
            first = await producer("POST", DELIVERIES, body)
            again = await producer("POST", DELIVERIES, body)

        assert [first.status, again.status] == [202, 202]
        assert [one["duplicate"] for one in first.json["deliveries"]] == [False] * 3
        assert [one["duplicate"] for one in again.json["deliveries"]] == [True] * 3
        work = [record.subject for record in await site.records(streams.WORK)]
        assert sorted(work) == [subjects.requested(TENANT, name) for name in ("full", "full", "one", "two")]
        assert [record.subject for record in await site.records(streams.OVERFLOW)] == [
            subjects.overflow(TENANT, "full")
        ]
        async with site.consumer():
            await until(site.is_settled, 20)
        assert receiver.ids().count("fanned-out") == 3


async def test_a_fan_out_that_dies_half_way_leaves_no_half(site: Site, receiver: Scripted) -> None:
    """A batch that is never committed is forgotten by the server."""
    for name in ("one", "two", "three"):
        await site.destination(name, receiver.url, event_types=["*"])
    for number in (1, 2):
        headers = {
            "Nats-Batch-Id": "half",
            "Nats-Batch-Sequence": str(number),
            HEADER_MSG_ID: f"acme.{number}",
        }
        await site.jetstream.connection.publish(subjects.requested(TENANT, "one"), b"{}", headers=headers)
    await site.jetstream.connection.flush()

    async with running(site) as api:
        producer = await api.client(Role.PRODUCER)
        reply = await producer("POST", DELIVERIES, {"event_type": "a.b", "payload": 1})

    assert reply.status == 202
    assert len(await site.records(streams.WORK)) == 3


async def test_a_delivery_without_subscribers_stores_nothing(api: Api) -> None:
    """The API returns 202 with an empty list and stores nothing."""
    producer = await api.client(Role.PRODUCER)

    reply = await producer("POST", DELIVERIES, {"event_type": "a.b", "payload": 1})

    assert (reply.status, reply.json["deliveries"]) == (202, [])
    assert await api.site.records(streams.WORK) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"destination": "unknown"}, "destination"),
        ({"destination": "Not A Name"}, "destination"),
        ({"event_type": "a b"}, "event_type"),
        ({"event_type": "oneprotect.ping"}, "event_type"),
        ({"id": "not an id"}, "id"),
        ({"payload_base64": "AA=="}, None),
        ({"payload": None, "extra": 1}, None),
        ({"content_type": "a\nb"}, "content_type"),
    ],
)
async def test_an_invalid_request_names_its_fields(api: Api, change: dict[str, Any], field: str | None) -> None:
    """The API returns 422 with the field and the rule, and stores nothing."""
    await api.site.destination("orders", "https://example.com/in")
    producer = await api.client(Role.PRODUCER)

    reply = await producer("POST", DELIVERIES, BODY | change)

    assert reply.status == 422
    (error,) = reply.json["errors"]
    assert error["field"] == field
    assert await api.site.records(streams.WORK) == []


async def test_bad_base64_and_too_much_of_it(api: Api) -> None:
    """A 422 for the one, a 413 for the other."""
    await api.site.destination("orders", "https://example.com/in")
    producer = await api.client(Role.PRODUCER)
    base = {"event_type": "a", "destination": "orders", "content_type": "text/plain"}
    large = base64.b64encode(bytes(api.site.settings.delivery.max_payload_bytes + 1)).decode()

    bad = await producer("POST", DELIVERIES, {**base, "payload_base64": "%%%"})
    too_large = await producer("POST", DELIVERIES, {**base, "payload_base64": large})

    assert (bad.status, bad.json["errors"][0]["field"]) == (422, "payload_base64")
    assert too_large.status == 413


async def test_states_follow_a_delivery_on_its_way(api: Api, receiver: Scripted) -> None:
    """Pending before a consumer has it, scheduled between attempts, failed when given up on, skipped when disabled."""
    receiver.script = [500, 410]
    await api.site.destination("orders", receiver.url, retry_schedule_s=[30])
    await api.site.destination("gone", receiver.url, retry_schedule_s=[0.1])
    await api.site.destination("off", receiver.url)
    await api.site.jetstream.configuration.disable_destination(TENANT, "off", by="test")
    client = await api.client(Role.PRODUCER, Role.VIEWER)
    places = {
        name: (await client("POST", DELIVERIES, BODY | {"destination": name})).headers["location"]
        for name in ("orders", "gone", "off")
    }

    async def states() -> list[str]:
        shown = [(await client("GET", place)).json["deliveries"][0] for place in places.values()]
        return [one["state"] for one in shown]

    assert await states() == ["pending"] * 3
    async with api.site.consumer():

        async def are_there() -> bool:
            return await states() == ["scheduled", "failed", "skipped"]

        await until(are_there, 15)
    orders = (await client("GET", places["orders"])).json["deliveries"][0]
    assert orders["next_attempt_at"] is not None


async def test_an_unknown_delivery_is_a_404(api: Api) -> None:
    """As is one of another tenant."""
    client = await api.client(Role.VIEWER)

    assert (await client("GET", f"{DELIVERIES}/dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB")).status == 404
    assert (await client("GET", f"{DELIVERIES}/made-by-others")).status == 404


async def test_the_api_returns_503_at_once_without_nats(api: Api, receiver: Scripted) -> None:
    """The API returns 503 with `Retry-After` and recovers with NATS; the same key then stores once."""
    await api.site.destination("orders", receiver.url)
    producer = await api.client(Role.PRODUCER)
    assert (await producer("POST", DELIVERIES, BODY, headers={"Idempotency-Key": "k"})).status == 202
    await api.site.server.kill()

    async def refuses() -> bool:
        return (await producer("POST", DELIVERIES, BODY)).status == 503

    await until(refuses, 10)
    async with asyncio.timeout(4):  # a publish times out after 5 s
        reply = await producer("POST", DELIVERIES, BODY)
    assert (reply.status, int(reply.headers["retry-after"]) > 0) == (503, True)
    assert reply.headers["content-type"] == "application/problem+json"

    await api.site.server.restart()

    async def accepts() -> bool:
        reply = await producer("POST", DELIVERIES, BODY, headers={"Idempotency-Key": "k"})
        return reply.status == 202 and reply.json["deliveries"][0]["duplicate"] is True

    await until(accepts, 20)
