"""A tenant that burdens the API's NATS service from its own account: nothing of the other tenant changes."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from schemas import streams, subjects
from schemas.ids import new_delivery_id
from schemas.roles import Role
from tests.isolation import hostile_nats
from tests.isolation.attack_process import attacking
from tests.isolation.hostile_nats import NatsAttack
from tests.isolation.installation import VICTIM, Installation
from tests.isolation.raw_nats import RawNats, raw_nats
from tests.support.site import TENANT, document
from tests.support.waiting import until

pytestmark = [pytest.mark.serial, pytest.mark.asyncio(loop_scope="module")]

SERVICE: Final = subjects.deliveries(TENANT)
REQUEST: Final = '{"destination": "own", "event_type": "a.b", "payload": 1}'
ATTACKS: Final[dict[str, dict[str, object]]] = {
    "largest messages": {"data": "x" * 1_000_000, "reply": "_INBOX.x"},
    "small requests": {"data": REQUEST, "reply": "_INBOX.x"},
    "messages without a reply subject": {"data": REQUEST},
    "invalid documents": {"data": "[" * 10_000, "reply": "_INBOX.x"},
    "large headers": {"data": REQUEST, "reply": "_INBOX.x", "headers": "x: " + "y" * 60_000 + "\r\n"},
    "new connections": {"data": REQUEST, "reply": "_INBOX.x", "churn": True, "connections": 16},
    "many subscriptions": {"data": REQUEST, "reply": "_INBOX.1", "subscriptions": 900, "connections": 20},
}


def _headers(foreign_id: str) -> list[str]:
    """Return header lines that mean something to JetStream or to the product; the last ones break rules."""
    return [
        f"Nats-Msg-Id: {foreign_id}",
        "Nats-Expected-Stream: ONEPROTECT_FAILED",
        "Nats-Expected-Last-Msg-Id: x",
        "Nats-Expected-Last-Sequence: 1",
        "Nats-Expected-Last-Subject-Sequence: 99",
        f"Nats-Expected-Last-Subject-Sequence-Subject: {subjects.requested(VICTIM, 'orders')}",
        "Nats-Rollup: all",
        "Nats-TTL: 1s",
        "Nats-Marker-Reason: Purge",
        "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1",
        "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1",
        f"Nats-Schedule: @every 1s\r\nNats-Schedule-Target: {subjects.due(VICTIM, 'orders')}",
        "Nats-Incr: 1",
        "Nats-Required-Api-Level: 99",
        "Nats-Stream-Source: x",
        f"Nats-Subject: {subjects.requested(VICTIM, 'orders')}",
        "Nats-Service-Error-Code: 500",
        "KV-Operation: PURGE",
        "Oneprotect-Attempt: 99",
        "Oneprotect-First-Attempt-At: 1999-01-01T00:00:00Z",
        "Oneprotect-Replay: r1",
        f"oneprotect-tenant: {VICTIM}",
        "content-type: application/cloudevents+json",
        "traceparent: 00-zz-zz-01",
        "traceparent: " + "0" * 5000,
        "X\x01Y: v",
        "x: " + "y" * 60_000,
        "no colon",
        ": empty",
    ]


async def _answers(tenant: RawNats, sent: int) -> list[int]:
    """Return the statuses of the responses, when all of them are there."""
    await until(lambda: len(tenant.received) >= sent, 20)
    codes = [message.headers.partition(b"Nats-Service-Error-Code:")[2].split(b"\r\n")[0] for message in tenant.received]
    return [int(code or 202) for code in codes]


async def test_no_header_of_a_request_reaches_a_stream(installation: Installation) -> None:
    """Each request is answered, the accepted ones are delivered as usual, and the victim's id stays its own."""
    api, victim_id = installation.api, new_delivery_id()
    foreign = subjects.msg_id(VICTIM, "orders", victim_id)
    await installation.add_tenant(TENANT)
    await installation.add_destinations(TENANT, {"own": f"{installation.hostile_url}/quick"})
    own = await api.client(Role.OPERATOR, Role.VIEWER, tenant=TENANT)
    lines = _headers(foreign)
    ids = [new_delivery_id() for _ in lines]
    access = installation.keys.access(f"producer_{TENANT}", installation.site.server.url)
    async with raw_nats(access) as tenant:
        tenant.subscribe("_INBOX.>")
        for delivery, line in zip(ids, lines, strict=True):
            body = {"destination": "own", "event_type": "a.b", "payload": 1, "id": delivery}
            headers = line.encode() + b"\r\n"
            tenant.publish(SERVICE, msgspec.json.encode(body), reply=f"_INBOX.{delivery}", headers=headers)
        await tenant.flush()
        codes = await _answers(tenant, len(lines))
        accepted = {
            message.subject.removeprefix("_INBOX.")
            for message, code in zip(tenant.received, codes, strict=True)
            if code == 202
        }

    async def outcome(delivery: str) -> list[tuple[str, int]]:
        reply = await own("GET", f"/v1/tenants/{TENANT}/deliveries/{delivery}")
        found: list[dict[str, Any]] = reply.json["deliveries"] if reply.status == 200 else []
        return [(one["state"], len(one["attempts"])) for one in found]

    async def all_delivered() -> bool:
        return all([await outcome(delivery) == [("delivered", 1)] for delivery in accepted])

    await until(all_delivered, 20)
    victims = await api.client(Role.PRODUCER, Role.OPERATOR, tenant=VICTIM)
    body = {"destination": "orders", "event_type": "a.b", "payload": {"id": victim_id}, "id": victim_id}
    reply = await victims("POST", f"/v1/tenants/{VICTIM}/deliveries", body)
    await until(lambda: installation.victim.has_received(victim_id), 20)
    quarantined = await installation.site.records(streams.QUARANTINE)

    assert set(codes) <= {202, 400, 413, 422}, dict(zip(lines, codes, strict=False))
    assert len(accepted) >= len(lines) // 2
    assert reply.json["deliveries"][0]["duplicate"] is False
    assert quarantined == []
    (await installation.victim.run(api, seconds=1)).require(60_000)


BODIES: Final = [
    b"",
    b"\xff\xfe",
    b"{}",
    b"null",
    b"[" * 10_000,
    b'{"a":' * 10_000,
    b'{"destination": "own", "event_type": "a.b", "payload": ' + b"9" * 5000 + b"}",
    b'{"destination": "own", "event_type": "a.b", "payload": 1e999999}',
    b'{"destination": "../globex/orders", "event_type": "a.b", "payload": 1}',
    b'{"destination": "*", "event_type": "a.b", "payload": 1}',
    b'{"destination": "own", "event_type": "a.b", "payload": 1, "id": "*"}',
    b'{"destination": "own", "event_type": "a.b", "payload": 1, "tenant": "globex"}',
    document("orders", delivery="foreign", tenant=VICTIM),
]


async def test_every_odd_body_gets_an_answer_and_reaches_no_other_tenant(installation: Installation) -> None:
    """Malformed documents get a problem, and a document that names another tenant is refused."""
    api = installation.api
    access = installation.keys.access(f"producer_{TENANT}", installation.site.server.url)
    async with raw_nats(access) as tenant:
        tenant.subscribe("_INBOX.>")
        for body in BODIES:
            for content_type in (
                b"",
                b"content-type: application/json\r\n",
                b"content-type: application/cloudevents+json\r\n",
            ):
                tenant.publish(SERVICE, body, reply="_INBOX.x", headers=content_type)
        await tenant.flush()
        codes = await _answers(tenant, 3 * len(BODIES))

    assert all(400 <= code < 500 for code in codes if code != 202)
    (await installation.victim.run(api, seconds=1)).require(60_000)
    assert await installation.site.results("foreign") == []


@pytest.mark.parametrize("name", ATTACKS)
async def test_messages_of_one_tenant_delay_no_other(
    installation: Installation, p99_ms: float, figure: Callable[[str], None], name: str
) -> None:
    """The victim's requests are accepted and delivered while the hostile tenant sends as fast as the server reads."""
    access = installation.keys.access(f"producer_{TENANT}", installation.site.server.url)
    attack = msgspec.convert(ATTACKS[name] | {"access": access, "subject": SERVICE}, NatsAttack)
    async with attacking(hostile_nats.__name__, attack) as result:
        report = await installation.victim.run(installation.api, seconds=3)

    figure(f"{report}; attack: {result}")
    report.require(p99_ms)


async def test_a_flood_of_one_tenant_leaves_the_service_to_the_others(
    installation: Installation, p99_ms: float, figure: Callable[[str], None]
) -> None:
    """The requests of another tenant over NATS are answered while the flood of the first one comes."""
    url, clock = installation.site.server.url, asyncio.get_running_loop().time
    flooder, other = (installation.keys.access(f"producer_{tenant}", url) for tenant in (TENANT, VICTIM))
    attack = NatsAttack(access=flooder, subject=SERVICE, data=REQUEST, reply="_INBOX.x")
    took_ms: list[float] = []
    async with attacking(hostile_nats.__name__, attack) as result, raw_nats(other) as victim:
        victim.subscribe("_INBOX.>")
        for number in range(60):
            delivery, began = new_delivery_id(), clock()
            body = {"destination": "orders", "event_type": "a.b", "payload": {"id": delivery}, "id": delivery}
            victim.publish(subjects.deliveries(VICTIM), msgspec.json.encode(body), reply=f"_INBOX.{number}")
            await until(lambda number=number: len(victim.received) > number)  # type: ignore[misc]
            took_ms.append((clock() - began) * 1000)
            await asyncio.sleep(0.03)
        codes = await _answers(victim, 60)

    figure(f"longest {max(took_ms):.1f} ms; attack: {result}")
    assert set(codes) == {202}
    assert max(took_ms) <= p99_ms
