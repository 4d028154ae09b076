"""Failed deliveries, attempt results and archive batches, stored as a consumer stores them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from consumers.retention.archive import ArchivedDelivery
from messaging import direct_get
from messaging.publication import Publication, PublishAck
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, decode_request, encode
from schemas.headers import HEADER_ATTEMPT, HEADER_CODE, HEADER_FIRST_ATTEMPT_AT, HEADER_OUTCOME
from schemas.ids import new_delivery_id
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until


async def keep(
    site: Site,
    count: int = 1,
    *,
    destination: str = "orders",
    delivery: str | None = None,
    attempt: int = 8,
    code: Code = Code.HTTP_5XX,
    outcome: Outcome = Outcome.FAILED,
    tenant: str = TENANT,
    payload: bytes = b'{"n": 1}',
) -> list[str]:
    """Store failed deliveries and return their ids."""
    deliveries = [delivery or new_delivery_id() for _ in range(count)]
    stored: list[object] = []

    def on_stored(result: object) -> None:
        stored.append(result)

    for one in deliveries:
        headers = {
            HEADER_ATTEMPT: str(attempt),
            HEADER_CODE: code.value,
            HEADER_OUTCOME: outcome.value,
            HEADER_FIRST_ATTEMPT_AT: datetime.now(UTC).isoformat(),
        }
        body = document(destination, delivery=one, tenant=tenant, payload=payload)
        publication = Publication(subjects.failed(tenant, destination, one), body, headers)
        site.jetstream.publisher.send(publication, on_stored)
    await until(lambda: len(stored) == count, 20)
    assert all(isinstance(result, PublishAck) for result in stored), stored
    return deliveries


async def record(site: Site, delivery: str, **fields: Any) -> None:
    """Publish an attempt result."""
    result: dict[str, Any] = {
        "delivery": delivery,
        "destination": "orders",
        "event_type": "invoice.paid",
        "attempt": 1,
        "outcome": Outcome.FAILED,
        "code": Code.HTTP_5XX,
        "started_at": datetime.now(UTC),
        "duration_ms": 1.5,
        "worker": "w",
    }
    data = AttemptResult(**result | fields)
    event = DeliveryAttempted(
        specversion="1.0",
        id=f"{delivery}.{data.attempt}",
        source="/tests",
        time=data.started_at,
        tenant=TENANT,
        data=data,
    )
    subject = subjects.attempted(TENANT, data.destination, delivery)
    await site.jetstream.publisher.publish(Publication(subject, encode(event), {}))


async def requested(site: Site) -> list[str]:
    """Return the ids of the requests in the work stream and the overflow stream."""
    return sorted([decode_request(one.data).id for one in await waiting(site)])


async def waiting(site: Site) -> Sequence[direct_get.StoredMessage]:
    """Return the requests in the work stream and the overflow stream."""
    return [*await site.records(streams.WORK), *await site.records(streams.OVERFLOW)]


async def pack(site: Site, count: int, *, destination: str = "orders", tenant: str = TENANT) -> list[str]:
    """Store deliveries in the archive in one batch, as delivered at the first attempt."""
    deliveries = [new_delivery_id() for _ in range(count)]
    copies = [ArchivedDelivery(document(destination, delivery=one, tenant=tenant), {}) for one in deliveries]
    packed = Publication(subjects.delivered(tenant, destination), msgspec.msgpack.encode(copies), {})
    await site.jetstream.publisher.publish(packed)
    return deliveries
