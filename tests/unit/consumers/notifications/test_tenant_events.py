"""Operational events as delivery requests."""

from typing import cast

import msgspec
import structlog

from consumers.destinations.destination_index import DestinationIndex
from consumers.notifications.tenant_events import BURST, DELIVERIES_PER_S, MAX_SUBSCRIBERS, TenantEventPublisher
from messaging.client.connection import NatsConnection
from messaging.kv import KvEntry
from messaging.message import Message
from schemas import events, subjects
from tests.unit.messaging.kv_bucket import StubBucket


def _event(number: int, tenant: str = "acme") -> Message:
    event = events.DestinationRecovered(
        specversion="1.0",
        id=f"e{number}",
        source="/tests",
        time=events.now(),
        tenant=tenant,
        data=events.DestinationRecoveredData(destination="d0000"),
    )
    subject = subjects.operational("destination.recovered", tenant, "d0000")
    lane = subjects.tenant_of_event(subject)
    return Message(
        subject,
        lane,
        b"$JS.ACK.ONEPROTECT_EVENTS.telling.1.1.1.0.0",
        events.encode(event),
        b"",
        cast("NatsConnection", None),
    )


async def _publisher(bucket: StubBucket) -> TenantEventPublisher:
    index = DestinationIndex(bucket.bucket, bucket.connection)
    await index.start()
    return TenantEventPublisher(index)


def _subscribers(count: int, pattern: str = "oneprotect.*") -> list[KvEntry]:
    row = msgspec.json.encode({"url": "https://acme.com/in", "credential": "key", "event_types": [pattern]})
    return [KvEntry(f"acme.d{number:04}", row, number + 1) for number in range(count)]


async def test_an_event_reads_no_destination_again() -> None:
    """However many events and destinations a tenant has, its destinations are read once."""
    bucket = StubBucket(*_subscribers(2000, "order.*"))
    publisher = await _publisher(bucket)
    for number in range(50):
        await publisher(_event(number))
    assert bucket.reads == 1


async def test_an_event_causes_a_bounded_number_of_deliveries() -> None:
    """The first destinations by id get it, none about itself, and the log has the number of the others."""
    publisher = await _publisher(StubBucket(*_subscribers(MAX_SUBSCRIBERS + 11)))
    with structlog.testing.capture_logs() as logs:
        requests = await publisher(_event(1))
    named = [subjects.tenant_and_destination(request.subject)[1] for request in requests]
    assert named == [f"d{number:04}" for number in range(1, MAX_SUBSCRIBERS + 1)]
    (warning,) = logs
    assert (warning["event"], warning["limit"], warning["omitted"]) == ("notifications.omitted", "subscribers", 10)


async def test_a_flood_of_events_causes_deliveries_up_to_a_rate_of_its_tenant() -> None:
    """What exceeds the rate is counted and logged once a minute, and another tenant gets its event."""
    globex = [msgspec.structs.replace(row, key=row.key.replace("acme", "globex")) for row in _subscribers(3)]
    publisher = await _publisher(StubBucket(*_subscribers(20), *globex))
    with structlog.testing.capture_logs() as logs:
        flood = [len(await publisher(_event(number))) for number in range(400)]
        other = await publisher(_event(1, "globex"))

    assert BURST <= sum(flood) <= BURST + 15 * DELIVERIES_PER_S, "with the tokens of 15 seconds at most"
    assert sum(flood) + publisher.omitted["rate"] == 400 * MAX_SUBSCRIBERS
    assert len(other) == 2
    assert sorted(log["limit"] for log in logs) == ["rate", "subscribers"]


def test_events_wait_in_the_lane_of_their_tenant() -> None:
    """So one tenant's events do not take the turns of another's; a malformed subject is its own lane."""
    assert [_event(1).lane, _event(1, "globex").lane] == ["acme", "globex"]
    assert subjects.tenant_of_event("oneprotect.event.odd") == "oneprotect.event.odd"
