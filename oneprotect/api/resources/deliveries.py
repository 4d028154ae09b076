"""Deliveries over HTTP: request one, and follow its state."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from consumers.attempts.timeline import DeliveryState, DeliveryTimeline, read_timelines
from oneprotect.api.operations.delivery_intake import KEY, AcceptedDeliveries, NewDelivery, accept_delivery
from oneprotect.api.operations.operation import PRODUCERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import to_public
from oneprotect.api.web.problems import Problem
from schemas.events import AttemptResult
from schemas.headers import HEADER_TRACE
from schemas.ids import DeliveryId, DestinationId, EventType

OPERATIONS: Final = OperationGroup("deliveries")
LIST: Final = "/v1/tenants/{tenant}/deliveries"
EXAMPLE_ID: Final = "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"


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
    problems=(409, 507),
)
async def request_delivery(request: ApiRequest) -> ApiResponse:
    """Request a delivery.

    The API responds 202 after JetStream has stored the delivery, never before.

    With `destination`, that destination gets the delivery. If the destination is disabled, the delivery is skipped and
    kept for a replay. Without `destination`, every enabled destination that subscribes to the event type gets one.
    After an error none of them gets one. If no destination subscribes, `deliveries` is empty and nothing is stored.

    Repeating a request is safe with an id of your own in `Idempotency-Key` or `id`. Within 24 hours, or as the operator
    has set, each destination gets an id once. The id with another body, event type or content type is refused with 409.
    """
    accepted = await accept_delivery(
        request.parts,
        request.tenant,
        await request.body(NewDelivery),
        key=request.header(KEY.lower()),
        trace=request.header(HEADER_TRACE),
    )
    headers = {"location": f"/v1/tenants/{request.tenant}/deliveries/{accepted.id}"} if accepted.deliveries else {}
    return ApiResponse(status=202, body=accepted, headers=headers)


@OPERATIONS.add(
    "GET",
    LIST + "/{id}",
    {200: ResponseDoc("The delivery and its state at each of its destinations.", DeliveryView)},
    roles=READERS | PRODUCERS,
    reads_many=True,
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
