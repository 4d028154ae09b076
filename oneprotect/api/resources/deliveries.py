"""Deliveries over HTTP: asked for, and looked at."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from consumers.attempts.timeline import DeliveryState, DeliveryTimeline, read_timelines
from messaging.atomic_batch import MAX_BYTES, MAX_MESSAGES
from messaging.delivery_requests import DeliveryRequest, publish_requests
from oneprotect.api.operations.operation import PRODUCERS, READERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.public_codes import to_public
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.problems import Problem, unavailable
from schemas import subjects, validation
from schemas.events import CONTENT_TYPE, AttemptResult, BodyContentType, DeliveryRequested, RequestedData, encode
from schemas.ids import DeliveryId, DestinationId, EventType, new_delivery_id
from schemas.subscriptions import OPERATIONAL
from schemas.validation import ValidationError

SOURCE: Final = "/oneprotect/api"
LIST: Final = "/v1/tenants/{tenant}/deliveries"
KEY: Final = "Idempotency-Key"

_TRACE_PARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class NewDelivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to deliver, and where to: exactly one of `payload` and `payload_base64`.

    `payload` is JSON, and is delivered byte for byte as it was sent here. `payload_base64` is any other body, and then
    `content_type` says what it is. Without a `destination` it goes to every enabled one that asks for its event type.
    """

    event_type: EventType
    destination: DestinationId | UnsetType = UNSET
    payload: Annotated[Raw, Meta(description="Any JSON value; its bytes are the body.")] | UnsetType = UNSET
    payload_base64: Annotated[str, Meta(description="A body that is not JSON, in base64.")] | UnsetType = UNSET
    content_type: BodyContentType | UnsetType = UNSET
    id: DeliveryId | UnsetType = UNSET

    def data(self, destination: str) -> RequestedData:
        """The same, for one destination. Raises `ValidationError`."""
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
    """A delivery that was stored. `duplicate`: it had been before, and nothing was added."""

    id: DeliveryId
    destination: DestinationId
    duplicate: bool


class AcceptedDeliveries(Struct, frozen=True, kw_only=True):
    """What was stored: one delivery, or one for each destination that asks for the event type."""

    id: DeliveryId
    deliveries: tuple[Accepted, ...]


class State(StrEnum):
    """Where a delivery stands at one destination."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"


class Standing(Struct, frozen=True, kw_only=True):
    """A delivery at one destination. `attempts`: the oldest first."""

    destination: DestinationId
    event_type: EventType
    state: State
    next_attempt_at: datetime | None
    attempts: tuple[AttemptResult, ...]
    is_complete: Annotated[
        bool, Meta(description="False when so much is on record since then that not all of it was looked through.")
    ]

    @classmethod
    def of(cls, timeline: DeliveryTimeline, *, public: bool) -> "Standing":
        """How it stands, as far as whoever asks may know."""
        waits = timeline.state is DeliveryState.OVERFLOW
        return cls(
            destination=timeline.destination,
            event_type=timeline.event_type,
            state=State.PENDING if waits else State(timeline.state.value),
            next_attempt_at=timeline.next_attempt_at,
            attempts=tuple(to_public(attempt, public=public) for attempt in timeline.attempts),
            is_complete=timeline.is_complete,
        )


class DeliveryView(Struct, frozen=True, kw_only=True):
    """A delivery, and how it stands at each of its destinations."""

    id: DeliveryId
    tenant: str
    deliveries: tuple[Standing, ...]


async def request_delivery(call: ApiRequest) -> ApiResponse:
    """Accept: 202 when it is stored, and not before."""
    asked = await call.body(NewDelivery)
    if asked.event_type.startswith(OPERATIONAL):
        raise ValidationError("event_type", f"types that begin with `{OPERATIONAL}` are told by us alone")
    delivery = _delivery_id(call, asked)
    destinations = await _destinations(call, asked)
    if not destinations:
        return ApiResponse(status=202, body=AcceptedDeliveries(id=delivery, deliveries=()))
    if not call.parts.connection.is_connected:
        raise unavailable()
    stored = await publish_requests(call.parts.publisher, _requests(call, asked, delivery, destinations))
    return ApiResponse(
        status=202,
        body=AcceptedDeliveries(
            id=delivery,
            deliveries=tuple(
                Accepted(id=delivery, destination=destination, duplicate=one.duplicate)
                for destination, one in zip(destinations, stored, strict=True)
            ),
        ),
        headers={"location": f"/v1/tenants/{call.tenant}/deliveries/{delivery}"},
    )


async def get_delivery(call: ApiRequest) -> ApiResponse:
    """How it stands."""
    delivery = validation.delivery_id(call.request.path_params["id"], "id")
    found = await read_timelines(call.parts.connection, call.tenant, delivery)
    if not found:
        raise Problem(404, "not-found", "The tenant has no delivery of this id that is waiting or on record.")
    public = not call.principal.is_operator
    standings = tuple(Standing.of(timeline, public=public) for timeline in found)
    return ApiResponse(body=DeliveryView(id=delivery, tenant=call.tenant, deliveries=standings))


def _delivery_id(call: ApiRequest, asked: NewDelivery) -> str:
    key = call.header(KEY.lower())
    if key is None:
        return new_delivery_id() if isinstance(asked.id, UnsetType) else asked.id
    if not isinstance(asked.id, UnsetType) and asked.id != key:
        raise ValidationError("id", f"not the same as `{KEY}`; one of them is enough")
    return validation.delivery_id(key, KEY)


async def _destinations(call: ApiRequest, asked: NewDelivery) -> list[str]:
    addressees = call.parts.addressees
    if isinstance(asked.destination, UnsetType):
        found = await addressees.subscribed(call.tenant, asked.event_type)
        if len(found) > MAX_MESSAGES:
            raise ValidationError(
                "event_type", f"more than {MAX_MESSAGES} destinations ask for it; name one after the other"
            )
        return found
    if not await addressees.has(call.tenant, asked.destination):
        raise ValidationError("destination", "the tenant has no destination of this name; create it first")
    return [asked.destination]


def _requests(call: ApiRequest, asked: NewDelivery, delivery: str, destinations: list[str]) -> list[DeliveryRequest]:
    tenant = call.tenant
    common = {"content-type": CONTENT_TYPE}
    trace = call.header(subjects.HEADER_TRACE)
    if trace is not None and _TRACE_PARENT.fullmatch(trace):
        common[subjects.HEADER_TRACE] = trace
    _check_size(call, asked.data(destinations[0]), len(destinations))
    now = datetime.now(UTC)
    return [
        DeliveryRequest(
            tenant,
            destination,
            encode(
                DeliveryRequested(
                    specversion="1.0",
                    id=delivery,
                    source=SOURCE,
                    type="oneprotect.delivery.requested.v1",
                    time=now,
                    tenant=tenant,
                    data=asked.data(destination),
                )
            ),
            {subjects.HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery), **common},
        )
        for destination in destinations
    ]


def _check_size(call: ApiRequest, data: RequestedData, count: int) -> None:
    """Raise `Problem` for a body that consumers would refuse, or `ValidationError` for what is not base64."""
    try:
        size = len(data.body())
    except ValueError:
        size = None
    if size is None:
        raise ValidationError("payload_base64", "not base64")
    if size > call.parts.max_payload_bytes:
        raise Problem(413, "too-large", f"The payload has more than {call.parts.max_payload_bytes} bytes.")
    if size * count > MAX_BYTES // 2:  # half, for what stands around it, and base64
        raise Problem(413, "too-large", f"For {count} destinations at once the payload is too large; name one by one.")


EXAMPLE_ID: Final = "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"
EXAMPLE: Final = {"event_type": "invoice.paid", "payload": {"invoice": 42, "total": "19.90"}, "destination": "orders"}

OPERATIONS: Final = (
    ApiOperation(
        method="POST",
        path=LIST,
        name="requestDelivery",
        summary="Ask for a delivery",
        description="The answer is 202 when JetStream has stored it, and never before. With a `destination` it goes "
        "there, also when that is disabled: then it is kept, for a replay. Without one it goes to every enabled "
        "destination that asks for its event type, to all of them or, on an error, to none; if none asks for it, "
        "`deliveries` is empty and nothing is stored. With an id of your own (`Idempotency-Key`, or `id`) it is safe "
        "to repeat a request whose answer was lost: within ten minutes the same id goes to the same destination once, "
        "and the first body stays.",
        tag="deliveries",
        roles=PRODUCERS,
        handle=request_delivery,
        body=NewDelivery,
        body_example=EXAMPLE,
        headers={
            KEY: "The delivery's id: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. The same as `id` in the body.",
            "traceparent": "A W3C trace context; it is recorded, and sent along to destinations that ask for it.",
        },
        says={
            202: ResponseDoc(
                what="Stored.",
                body=AcceptedDeliveries,
                example={
                    "id": EXAMPLE_ID,
                    "deliveries": [{"id": EXAMPLE_ID, "destination": "orders", "duplicate": False}],
                },
                headers={"Location": "Where to look at it."},
            )
        },
    ),
    ApiOperation(
        method="GET",
        path=LIST + "/{id}",
        name="getDelivery",
        summary="Show a delivery and its attempts",
        description="`pending` waits to be attempted, `scheduled` for the time of its next attempt. What was given up "
        "on (`failed`) or kept back (`skipped`) can be replayed. Kept for 30 days.",
        tag="deliveries",
        roles=READERS | PRODUCERS,
        handle=get_delivery,
        says={200: ResponseDoc(what="How it stands at each of its destinations.", body=DeliveryView)},
        problems=(404,),
    ),
)
