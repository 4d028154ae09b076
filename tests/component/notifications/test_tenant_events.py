"""Operational events, delivered to destinations of the tenant that subscribe to them."""

import asyncio
import json
import re
from typing import Any

import pytest
from standardwebhooks import Webhook

from consumers.notifications.tenant_events import BURST, DELIVERIES_PER_S, MAX_SUBSCRIBERS
from messaging.audit_events import publish_audit_event
from messaging.publication import Publication
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import events, streams
from schemas.codes import Code, CredentialStatus
from schemas.events import decode_request
from tests.support.receiver import Scripted, Seen
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

OTHER = "globex"


def _envelope(event: str, tenant: str = TENANT) -> dict[str, Any]:
    return {"specversion": "1.0", "id": event, "source": "/tests", "time": events.now(), "tenant": tenant}


async def _recovered(site: Site, destination: str, event: str, *, tenant: str = TENANT) -> None:
    data = events.DestinationRecoveredData(destination=destination)
    told = events.DestinationRecovered(data=data, **_envelope(event, tenant))
    await publish_audit_event(site.jetstream.publisher, "destination.recovered", destination, told)


async def _credential(site: Site, event: str, before: CredentialStatus, after: CredentialStatus) -> None:
    data = events.CredentialStatusData(credential="key", status=after, previous_status=before)
    told = events.CredentialStatusChanged(data=data, **_envelope(event))
    await publish_audit_event(site.jetstream.publisher, "credential.status_changed", "key", told)


async def _is_notified(site: Site) -> bool:
    """Return whether every operational event so far is handled and none waits."""
    info = await site.jetstream.connection.api(
        f"CONSUMER.INFO.{streams.TELLING_CONSUMER.stream}.{streams.TELLING_CONSUMER.name}"
    )
    return info["num_pending"] == info["num_ack_pending"] == 0 and await site.is_settled()


def _types(receiver: Scripted) -> list[str]:
    return sorted(_event(seen)["type"] for seen in receiver.seen)


def _event(seen: Seen) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(seen.body)
    return event


async def test_a_disabled_destination_is_reported_to_its_subscriber(site: Site, receiver: Scripted) -> None:
    """The event arrives as a complete signed delivery of its own type at the subscribed destination."""
    async with Scripted([410]) as gone, site.consumer():
        await site.destination("ops", receiver.url, event_types=["oneprotect.destination.*"])
        await site.destination("orders", gone.url)
        await site.deliver("orders")
        await until(lambda: receiver.seen, 20)
        await until(lambda: _is_notified(site), 20)

    (seen,) = receiver.seen
    event = _event(seen)
    assert Webhook(site.secret).verify(seen.body, seen.headers) == event
    assert event["type"] == "oneprotect.destination.disabled.v1"
    assert event["data"] == {"destination": "orders", "reason": "the receiver answered 410 Gone"}
    assert seen.headers["content-type"] == "application/cloudevents+json"
    (result,) = await site.results(seen.id)
    assert (result.destination, result.event_type) == ("ops", "oneprotect.destination.disabled")


async def test_a_bare_wildcard_gets_no_operational_event(site: Site, receiver: Scripted) -> None:
    """A bare wildcard or no subscription gets no operational event; naming the audit trail does."""
    async with Scripted() as named, site.consumer():
        await site.destination("all", receiver.url, event_types=["*"])
        await site.destination("none", receiver.url)
        await site.destination("ours", receiver.url + "/ours", event_types=["oneprotect.*"])
        await site.destination("audit", named.url, event_types=["oneprotect.config.changed"])
        await site.destination("orders", receiver.url)
        await _recovered(site, "orders", "e1")
        await until(lambda: named.seen and "oneprotect.destination.recovered.v1" in _types(receiver), 20)
        await until(lambda: _is_notified(site), 20)

    assert {seen.path for seen in receiver.seen} == {"/in/ours"}
    assert "oneprotect.destination.recovered.v1" in _types(receiver)
    assert "oneprotect.config.changed.v1" not in _types(receiver)
    assert set(_types(named)) == {"oneprotect.config.changed.v1"}


async def test_a_tenant_gets_only_its_own_events(site: Site, receiver: Scripted) -> None:
    """No subscription delivers events about another tenant's destinations."""
    await site.jetstream.configuration.set_credential(OTHER, "key", {"secret_ref": "k8s://webhooks/x/k"}, by="test")
    theirs = {"url": receiver.url + "/theirs", "credential": "key", "event_types": ["oneprotect.destination.*"]}
    await site.jetstream.configuration.set_destination(OTHER, "ops", theirs, by="test")
    await site.destination("ops", receiver.url, event_types=["oneprotect.destination.*"])

    async with site.consumer():
        await _recovered(site, "orders", "e1")
        await until(lambda: receiver.seen, 20)
        await until(lambda: _is_notified(site), 20)

    assert [seen.path for seen in receiver.seen] == ["/in"]
    assert {result.destination for result in await site.results()} == {"ops"}
    attempts = await site.records(streams.ATTEMPTS)
    assert [record.subject for record in attempts if f".{OTHER}." in record.subject] == []


async def test_a_destination_gets_no_event_about_itself(site: Site, receiver: Scripted) -> None:
    """Events about a failing subscriber go only to other subscribers, so no loop begins."""
    asks = {"event_types": ["oneprotect.destination.*"]}
    async with Scripted([410]) as gone, site.consumer():
        await site.destination("ops", gone.url, **asks)
        await site.destination("second", receiver.url, **asks)
        await site.deliver("ops")
        await until(lambda: receiver.seen, 20)
        await until(lambda: _is_notified(site), 20)

    assert len(gone.seen) == 1
    assert [(_event(seen)["data"]["destination"]) for seen in receiver.seen] == ["ops"]
    assert len(await site.results()) == 2


async def test_hidden_reasons_are_not_delivered(site: Site, receiver: Scripted) -> None:
    """A tenant sees `unavailable`, and gets no event for a change between two hidden reasons."""
    await site.destination("ops", receiver.url, event_types=["oneprotect.*"])
    failing = events.DestinationFailingData(
        destination="orders",
        failing_since=events.now(),
        consecutive_failures=3,
        last_code=Code.SECRET_MISMATCH,
        disabled_after=events.now(),
    )
    replay = events.ReplayData(replay="rpl-1", by="root@operators-laptop", replayed=1)

    async with site.consumer():
        await _credential(site, "c1", CredentialStatus.CONFIGURED, CredentialStatus.MISSING)
        await _credential(site, "c2", CredentialStatus.MISSING, CredentialStatus.DENIED)
        await publish_audit_event(
            site.jetstream.publisher,
            "destination.failing",
            "orders",
            events.DestinationFailing(data=failing, **_envelope("f1")),
        )
        await publish_audit_event(
            site.jetstream.publisher, "replay.started", "rpl-1", events.ReplayStarted(data=replay, **_envelope("r1"))
        )
        await until(lambda: len(receiver.seen) >= 3, 20)
        await until(lambda: _is_notified(site), 20)

    told = {_event(seen)["id"]: _event(seen)["data"] for seen in receiver.seen}
    assert set(told) >= {"c1", "f1", "r1"}
    assert "c2" not in told
    assert (told["c1"]["previous_status"], told["c1"]["status"]) == ("configured", "unavailable")
    assert told["f1"]["last_code"] == "secret.unavailable"
    assert "by" not in told["r1"]
    assert all(b"mismatch" not in seen.body and b"laptop" not in seen.body for seen in receiver.seen)


async def test_no_part_of_an_event_tells_why_a_secret_cannot_be_read(site: Site, receiver: Scripted) -> None:
    """Of a Secret of another tenant, and of none, a tenant gets the same event."""
    write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant="globex", names=["globex-key"])
    await site.destination("ops", receiver.url, event_types=["oneprotect.credential.*"])

    async with site.consumer():
        for name, secret in (("other", "globex-key"), ("none", "nonesuch")):
            ref = {"secret_ref": f"k8s://{NAMESPACE}/{secret}/signing"}
            await site.jetstream.configuration.set_credential(TENANT, name, ref, by="test")
        await until(lambda: {_about(seen) for seen in receiver.seen} >= {"other", "none"}, 30)

    told = {_about(seen): seen for seen in receiver.seen}
    ids = [_event(told[name])["id"].replace(name, "key") for name in ("other", "none")]
    assert {re.sub(r"[0-9]+", "N", one) for one in ids} == {f"{TENANT}.key.N.unavailable"}
    assert not re.search(rb"missing|mismatch", told["other"].body + told["none"].body)


def _about(seen: Seen) -> str:
    name: str = _event(seen)["data"].get("credential", "")
    return name


async def test_a_flood_of_events_is_delivered_up_to_the_limits_of_its_tenant(site: Site, receiver: Scripted) -> None:
    """Ten destinations get an event, up to a rate. Another tenant, behind the flood, gets its own."""
    asks = {"event_types": ["oneprotect.destination.*"], "max_in_flight": 64}
    for number in range(MAX_SUBSCRIBERS + 2):
        await site.destination(f"ops{number:02}", f"{receiver.url}/{number:02}", **asks)
    await site.jetstream.configuration.set_credential(OTHER, "key", {"secret_ref": "k8s://webhooks/x/k"}, by="test")
    theirs = {"url": receiver.url, "credential": "key", "event_types": ["oneprotect.destination.*"]}
    await site.jetstream.configuration.set_destination(OTHER, "ops", theirs, by="test")
    flood = int(BURST) // MAX_SUBSCRIBERS * 3

    began = asyncio.get_running_loop().time()
    async with site.consumer():
        await asyncio.gather(*(_recovered(site, "orders", f"e{number}") for number in range(flood)))
        await _recovered(site, "orders", "theirs", tenant=OTHER)
        await until(lambda: len(receiver.seen) >= BURST, 30)
        await until(lambda: _is_tried(site, OTHER), 10)
        took_s = asyncio.get_running_loop().time() - began

    destinations = {result.destination for result in await site.results()}
    assert destinations == {"ops", *(f"ops{number:02}" for number in range(MAX_SUBSCRIBERS))}
    assert BURST <= len(receiver.seen) <= BURST + MAX_SUBSCRIBERS + took_s * DELIVERIES_PER_S


async def _is_tried(site: Site, tenant: str) -> bool:
    return any(f".{tenant}." in record.subject for record in await site.records(streams.ATTEMPTS))


@pytest.mark.retry
async def test_an_event_is_delivered_once_over_workers_and_redeliveries(site: Site, receiver: Scripted) -> None:
    """Two workers and a redelivered event cause one delivery, because its id derives from the event."""
    await site.destination("ops", receiver.url, event_types=["oneprotect.destination.*"])

    async with site.consumer(), site.consumer():
        for number in range(5):
            await _recovered(site, "orders", f"e{number}")
        await until(lambda: len(receiver.seen) == 5, 20)
        await until(lambda: _is_notified(site), 20)
        (again, *_) = [one for one in await site.records(streams.EVENTS) if ".recovered." in one.subject]
        await site.jetstream.publisher.publish(Publication(again.subject, again.data, {}))
        await until(lambda: _is_notified(site), 20)

    assert sorted(_event(seen)["id"] for seen in receiver.seen) == [f"e{number}" for number in range(5)]
    assert len(set(receiver.ids())) == 5


async def test_events_for_a_full_destination_use_the_overflow(site: Site, receiver: Scripted) -> None:
    """Events wait in the overflow while the destination's share of the work stream is full."""
    await site.destination("ops", receiver.url, event_types=["oneprotect.destination.*"], max_in_flight=1)
    config = (await site.jetstream.connection.api(f"STREAM.INFO.{streams.WORK.name}"))["config"]
    await site.jetstream.connection.api(f"STREAM.UPDATE.{streams.WORK.name}", config | {"max_msgs_per_subject": 1})
    await site.jetstream.connection.api(f"CONSUMER.DELETE.{streams.WORK.name}.{streams.WORK_CONSUMER.name}")

    async with site.consumer():
        for number in range(3):
            await _recovered(site, "orders", f"e{number}")
        await until(lambda: _is_seen_to(site), 20)

    (due,) = await site.records(streams.WORK)
    overflow = await site.records(streams.OVERFLOW)
    told = [json.loads(decode_request(one.data).data.body())["id"] for one in [due, *overflow]]
    assert sorted(told) == ["e0", "e1", "e2"]


async def _is_seen_to(site: Site) -> bool:
    stored = [*await site.records(streams.WORK), *await site.records(streams.OVERFLOW)]
    return len(stored) == 3
