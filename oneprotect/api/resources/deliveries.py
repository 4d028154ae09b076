"""Deliveries over HTTP: request one, and follow its state."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from consumers.attempts.timeline import DeliveryState, DeliveryTimeline, read_timelines
from messaging.atomic_batch import MAX_BYTES, MAX_MESSAGES
from messaging.delivery_requests import DeliveryRequest, publish_requests
from oneprotect.api.operations.operation import PRODUCERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import to_public
from oneprotect.api.web.problems import Problem, unavailable
from schemas import subjects, validation
from schemas.events import CONTENT_TYPE, AttemptResult, BodyContentType, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_MSG_ID, HEADER_TRACE
from schemas.ids import DeliveryId, DestinationId, EventType, new_delivery_id
from schemas.subscriptions import OPERATIONAL
from schemas.validation import ValidationError

OPERATIONS: Final = OperationGroup("deliveries")
SOURCE: Final = "/oneprotect/api"
LIST: Final = "/v1/tenants/{tenant}/deliveries"
KEY: Final = "Idempotency-Key"
EXAMPLE_ID: Final = "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"

_TRACE_PARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


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


class Accepted(Struct, frozen=True, kw_only=True):
    """A stored delivery. `duplicate`: the delivery was stored before, and nothing was added."""

    id: DeliveryId
    destination: DestinationId
    duplicate: bool


class AcceptedDeliveries(Struct, frozen=True, kw_only=True):
    """The stored deliveries: one for each destination."""

    id: DeliveryId
    deliveries: tuple[Accepted, ...]


class State(StrEnum):
    """The state of a delivery at one destination."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"


class Standing(Struct, frozen=True, kw_only=True):
    """The state of a delivery at one destination. `attempts` are in order, the oldest first."""

    destination: DestinationId
    event_type: EventType
    state: State
    next_attempt_at: datetime | None
    attempts: tuple[AttemptResult, ...]
    is_complete: Annotated[
        bool, Meta(description="False if there are too many later records to search, so that attempts may be missing.")
    ]

    @classmethod
    def of(cls, timeline: DeliveryTimeline, *, public: bool) -> "Standing":
        """Return the state as the caller may see it."""
        is_overflow = timeline.state is DeliveryState.OVERFLOW
        return cls(
            destination=timeline.destination,
            event_type=timeline.event_type,
            state=State.PENDING if is_overflow else State(timeline.state.value),
            next_attempt_at=timeline.next_attempt_at,
            attempts=tuple(to_public(attempt, public=public) for attempt in timeline.attempts),
            is_complete=timeline.is_complete,
        )


class DeliveryView(Struct, frozen=True, kw_only=True):
    """A delivery and its state at each of its destinations."""

    id: DeliveryId
    tenant: str
    deliveries: tuple[Standing, ...]


@OPERATIONS.add(
    "POST",
    LIST,
    {
        202: ResponseDoc(
            "The deliveries are stored.",
            AcceptedDeliveries,
            {"id": EXAMPLE_ID, "deliveries": [{"id": EXAMPLE_ID, "destination": "orders", "duplicate": False}]},
            {"Location": "The path of the delivery."},
        )
    },
    roles=PRODUCERS,
    body=NewDelivery,
    body_example={
        "event_type": "invoice.paid",
        "payload": {"invoice": 42, "total": "19.90"},
        "destination": "orders",
    },
    headers={
        KEY: "The delivery id: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. Use this header or `id` in the body.",
        "traceparent": "A W3C trace context. It is recorded, and forwarded to destinations with `forward_trace`.",
    },
)
async def request_delivery(request: ApiRequest) -> ApiResponse:
    """Request a delivery.

    The API responds 202 after JetStream has stored the delivery, never before.

    With `destination`, that destination gets the delivery. If the destination is disabled, the delivery is skipped and
    kept for a replay. Without `destination`, every enabled destination that subscribes to the event type gets one.
    After an error none of them gets one. If no destination subscribes, `deliveries` is empty and nothing is stored.

    Repeating a request is safe with an id of your own in `Idempotency-Key` or `id`. Within ten minutes, each
    destination gets an id once, with the first body.
    """
    new = await request.body(NewDelivery)
    if new.event_type.startswith(OPERATIONAL):
        raise ValidationError("event_type", f"types that begin with `{OPERATIONAL}` are reserved; choose another type")
    delivery = _delivery_id(request, new)
    destinations = await _destinations(request, new)
    if not destinations:
        return ApiResponse(status=202, body=AcceptedDeliveries(id=delivery, deliveries=()))
    if not request.parts.connection.is_connected:
        raise unavailable()
    stored = await publish_requests(request.parts.publisher, _requests(request, new, delivery, destinations))
    return ApiResponse(
        status=202,
        body=AcceptedDeliveries(
            id=delivery,
            deliveries=tuple(
                Accepted(id=delivery, destination=destination, duplicate=ack.duplicate)
                for destination, ack in zip(destinations, stored, strict=True)
            ),
        ),
        headers={"location": f"/v1/tenants/{request.tenant}/deliveries/{delivery}"},
    )


@OPERATIONS.add(
    "GET",
    LIST + "/{id}",
    {200: ResponseDoc("The delivery and its state at each of its destinations.", DeliveryView)},
    roles=READERS | PRODUCERS,
    problems=(404,),
)
async def get_delivery(request: ApiRequest) -> ApiResponse:
    """Get a delivery and its attempts.

    A `pending` delivery is due. A `scheduled` delivery waits for the time of its next attempt. A `failed` or `skipped`
    delivery can be replayed. Records are kept for 30 days.
    """
    delivery = request.delivery_id
    found = await read_timelines(request.parts.connection, request.tenant, delivery)
    if not found:
        raise Problem(404, "not-found", "The tenant has no pending or recorded delivery with this id. Check the id.")
    deliveries = tuple(Standing.of(timeline, public=request.is_public) for timeline in found)
    return ApiResponse(body=DeliveryView(id=delivery, tenant=request.tenant, deliveries=deliveries))


def _delivery_id(request: ApiRequest, new: NewDelivery) -> str:
    key = request.header(KEY.lower())
    if key is None:
        return new_delivery_id() if isinstance(new.id, UnsetType) else new.id
    if not isinstance(new.id, UnsetType) and new.id != key:
        raise ValidationError("id", f"differs from `{KEY}`; send only one of them")
    return validation.delivery_id(key, KEY)


async def _destinations(request: ApiRequest, new: NewDelivery) -> list[str]:
    known = request.parts.destinations
    if isinstance(new.destination, UnsetType):
        found = await known.subscribed(request.tenant, new.event_type)
        if len(found) > MAX_MESSAGES:
            raise ValidationError(
                "event_type", f"more than {MAX_MESSAGES} destinations subscribe; send one request per destination"
            )
        return found
    if not await known.has(request.tenant, new.destination):
        raise ValidationError("destination", "the tenant has no destination of this name; create it first")
    return [new.destination]


def _requests(request: ApiRequest, new: NewDelivery, delivery: str, destinations: list[str]) -> list[DeliveryRequest]:
    tenant = request.tenant
    common = {"content-type": CONTENT_TYPE}
    trace = request.header(HEADER_TRACE)
    if trace is not None and _TRACE_PARENT.fullmatch(trace):
        common[HEADER_TRACE] = trace
    _require_size(request, new.data(destinations[0]), len(destinations))
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


def _require_size(request: ApiRequest, data: RequestedData, count: int) -> None:
    """Raise `Problem` for a body that consumers would reject, and `ValidationError` for malformed base64."""
    limit = request.parts.max_payload_bytes
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
