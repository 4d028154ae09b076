"""The intake of deliveries: validate a request, find its destinations, and store it.

The HTTP API and the NATS service both end here, so a rule of deliveries has one implementation.
"""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from consumers.delivery.named_ids import digest_of
from messaging.atomic_batch import MAX_BYTES, MAX_MESSAGES
from messaging.client.headers import block_of
from messaging.delivery_requests import DeliveryRequest, publish_requests
from oneprotect.api.operations.request import ApiDependencies
from oneprotect.api.web.problems import Problem, unavailable
from schemas import subjects, validation
from schemas.events import CONTENT_TYPE, OWN_SOURCES, BodyContentType, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID, HEADER_TRACE, context_headers
from schemas.ids import DeliveryId, DestinationId, EventType, new_delivery_id
from schemas.streams import MAX_MESSAGE_BYTES
from schemas.subscriptions import OPERATIONAL
from schemas.validation import ValidationError

SOURCE: Final = f"{OWN_SOURCES}api"
KEY: Final = "Idempotency-Key"
STATE_BYTES: Final = 4096
"""Room in a message for the headers that its retries and moves add."""


class NewDelivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a delivery. It has exactly one of `payload` and `payload_base64`.

    `payload` is JSON, and is delivered byte for byte as received. `payload_base64` is any other body, and requires
    `content_type`. Without `destination`, every enabled destination that subscribes to the event type gets a delivery.
    """

    event_type: EventType
    destination: DestinationId | UnsetType = UNSET
    payload: Annotated[Raw, Meta(description="Any JSON value; its bytes are the body.")] | UnsetType = UNSET
    payload_base64: Annotated[str, Meta(description="A body that is not JSON, in base64.")] | UnsetType = UNSET
    content_type: BodyContentType | UnsetType = UNSET
    id: DeliveryId | UnsetType = UNSET

    def data(self, destination: str) -> RequestedData:
        """Return the event data for one destination. Raises `ValidationError`."""
        try:
            return RequestedData(
                destination=destination,
                event_type=self.event_type,
                payload=self.payload,
                payload_base64=self.payload_base64,
                content_type=self.content_type,
            )
        except ValueError as error:
            rule = str(error)
        raise ValidationError(None, rule[:1].lower() + rule[1:])

    def delivery_id(self, key: str | None) -> str:
        """Return the value of `Idempotency-Key`, `id`, or a new id. Raises `ValidationError`."""
        if key is None:
            return new_delivery_id() if isinstance(self.id, UnsetType) else self.id
        if not isinstance(self.id, UnsetType) and self.id != key:
            raise ValidationError("id", f"differs from `{KEY}`; send only one of them")
        return validation.delivery_id(key, KEY)


class Accepted(Struct, frozen=True, kw_only=True):
    """A stored delivery. `duplicate`: the delivery was stored before, and nothing was added."""

    id: DeliveryId
    destination: DestinationId
    duplicate: bool


class AcceptedDeliveries(Struct, frozen=True, kw_only=True):
    """The stored deliveries: one for each destination."""

    id: DeliveryId
    deliveries: tuple[Accepted, ...]


async def accept_delivery(
    parts: ApiDependencies, tenant: str, new: NewDelivery, *, key: str | None, trace: str | None
) -> AcceptedDeliveries:
    """Store the deliveries that a tenant requests: to all destinations, or after an error to none.

    Args:
        tenant: The tenant that the caller is authorized for.
        key: The value of `Idempotency-Key`.
        trace: The value of `traceparent`. A malformed one is dropped.

    Raises:
        Problem, ValidationError: The request cannot be accepted.
        JetStreamError: It is safe to request the delivery again with its id.
    """
    parts.require_present(tenant)
    if new.event_type.startswith(OPERATIONAL):
        raise ValidationError("event_type", f"types that begin with `{OPERATIONAL}` are reserved; choose another type")
    delivery = new.delivery_id(key)
    destinations = await _destinations(parts, tenant, new)
    if not destinations:
        return AcceptedDeliveries(id=delivery, deliveries=())
    parts.limiter.charge_fan_out(tenant, len(destinations))
    if not parts.connection.is_connected:
        raise unavailable()
    _require_size(new.data(destinations[0]), len(destinations), parts.max_payload_bytes)
    requests = _requests(tenant, new, delivery, destinations, trace)
    _require_fit(requests, min(parts.connection.max_message_bytes - STATE_BYTES, MAX_MESSAGE_BYTES))
    parts.storage.require_room(tenant, [len(request.document) for request in requests])
    is_ordered = len(destinations) == 1 and await parts.destinations.is_ordered(tenant, destinations[0])
    publish = functools.partial(publish_requests, parts.publisher, ordered=parts.ordered_route if is_ordered else None)
    if parts.named is None or (key is None and new.id is UNSET):
        stored = await publish(requests)
    else:
        stored = await parts.named.store(requests, delivery, _digest(new.data(destinations[0])), publish)
    return AcceptedDeliveries(
        id=delivery,
        deliveries=tuple(
            Accepted(id=delivery, destination=destination, duplicate=ack.duplicate)
            for destination, ack in zip(destinations, stored, strict=True)
        ),
    )


def _digest(data: RequestedData) -> str:
    return digest_of(data.event_type, data.body_content_type, data.body())


async def _destinations(parts: ApiDependencies, tenant: str, new: NewDelivery) -> list[str]:
    known = parts.destinations
    if isinstance(new.destination, UnsetType):
        found = await known.subscribed(tenant, new.event_type)
        if len(found) > MAX_MESSAGES:
            raise ValidationError(
                "event_type", f"more than {MAX_MESSAGES} destinations subscribe; send one request per destination"
            )
        return found
    if not await known.has(tenant, new.destination):
        raise ValidationError("destination", "the tenant has no destination of this name; create it first")
    return [new.destination]


def _requests(
    tenant: str, new: NewDelivery, delivery: str, destinations: Sequence[str], trace: str | None
) -> list[DeliveryRequest]:
    common = {"content-type": CONTENT_TYPE} | context_headers({HEADER_TRACE: trace or "", HEADER_CHECKED: "1"})
    now = datetime.now(UTC)
    return [
        DeliveryRequest(
            tenant,
            destination,
            encode(new_event(tenant, delivery, now, new.data(destination))),
            {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery), **common},
        )
        for destination in destinations
    ]


def new_event(tenant: str, delivery: str, time: datetime, data: RequestedData) -> DeliveryRequested:
    """Return the event that requests a delivery."""
    return DeliveryRequested(
        specversion="1.0",
        id=delivery,
        source=SOURCE,
        type="oneprotect.delivery.requested.v1",
        time=time,
        tenant=tenant,
        data=data,
    )


def _require_fit(requests: Sequence[DeliveryRequest], limit: int) -> None:
    """Raise `Problem` for a message that NATS would refuse: now, or later with the state of its retries."""
    if any(len(request.document) + len(block_of(request.headers)) > limit for request in requests):
        raise Problem(
            413, "too-large", f"With its envelope, the payload exceeds {limit} bytes, the limit of NATS. Send less."
        )


def _require_size(data: RequestedData, count: int, limit: int) -> None:
    """Raise `Problem` for a body that consumers would reject, and `ValidationError` for malformed base64."""
    try:
        size = len(data.body())
    except ValueError:
        size = None
    if size is None:
        raise ValidationError("payload_base64", "expected standard base64")
    if size > limit:
        raise Problem(413, "too-large", f"The payload exceeds {limit} bytes. Send a smaller one.")
    if size * count > MAX_BYTES // 2:  # half, as base64 and the envelope add to the payload
        raise Problem(
            413, "too-large", f"The payload is too large for {count} destinations. Send one request per destination."
        )
