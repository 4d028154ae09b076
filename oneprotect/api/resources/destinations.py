"""Destinations over HTTP, and test deliveries to them."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from consumers.attempts.log import follow
from consumers.destinations.destination_index import MAX_SUBSCRIPTIONS
from messaging.delivery_requests import publish_request
from oneprotect.api.operations.delivery_intake import new_event
from oneprotect.api.operations.operation import ADMINS, MANAGERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.preconditions import HEADERS, format_entity_tag, read_precondition
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import to_public
from oneprotect.api.web.pagination import Page, PageQuery, read_list_page
from schemas import subjects
from schemas.codes import Outcome
from schemas.configuration import DestinationSpec, DestinationView
from schemas.events import CONTENT_TYPE, PING, AttemptResult, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID
from schemas.ids import DeliveryId, new_delivery_id
from schemas.validation import ValidationError

OPERATIONS: Final = OperationGroup("destinations")
LIST: Final = "/v1/tenants/{tenant}/destinations"
ONE: Final = LIST + "/{id}"
TEST_MARGIN_S: Final = 5.0
"""Time to wait for the result of a test, beyond the request timeout of the attempt."""
_LOCATION: Final = {"Location": "The path of the delivery."}
_REASON: Final = r"^[^\x00-\x1f\x7f]+$(?!\n)"
_Reason = Annotated[str, Meta(min_length=1, max_length=256, pattern=_REASON, description="A text for people.")]


class DestinationPage(Page[DestinationView], frozen=True):
    """Destinations by id."""


class Disabling(Struct, frozen=True, forbid_unknown_fields=True):
    """The reason for disabling a destination."""

    reason: _Reason | None = None


class TestResult(Struct, frozen=True, kw_only=True):
    """The result of a ping. `result` is null while no consumer has made the attempt; get the delivery later."""

    id: DeliveryId
    result: Annotated[AttemptResult, Meta(description="The only attempt.")] | None


EXAMPLE: Final[dict[str, Any]] = {
    "id": "orders",
    "tenant": "acme",
    "url": "https://example.com/webhooks",
    "credential": "orders-key",
    "event_types": ["invoice.*"],
    "headers": {},
    "timeout_s": None,
    "max_in_flight": None,
    "rate_per_s": 50.0,
    "retry_schedule_s": None,
    "capture_response": False,
    "forward_trace": False,
    "description": "",
    "enabled": True,
    "disabled_reason": None,
    "disabled_at": None,
    "revision": 7,
}
_ONE: Final = {
    200: ResponseDoc(
        "The destination as it is stored now.", DestinationView, EXAMPLE, {"ETag": "The revision, for `If-Match`."}
    )
}


@OPERATIONS.add(
    "GET",
    LIST,
    {200: ResponseDoc("A page of destinations, by id.", DestinationPage, {"items": [EXAMPLE], "next": None})},
    roles=READERS,
    query=PageQuery,
    reads_many=True,
)
async def list_destinations(request: ApiRequest) -> ApiResponse:
    """List destinations."""
    read = partial(request.parts.configuration.page_destinations, request.tenant)
    return ApiResponse(body=await read_list_page(request.query(PageQuery), read))


@OPERATIONS.add(
    "PUT",
    ONE,
    _ONE,
    roles=ADMINS,
    body=DestinationSpec,
    body_example={
        "url": "https://example.com/webhooks",
        "credential": "orders-key",
        "event_types": ["invoice.*"],
        "rate_per_s": 50,
    },
    headers=HEADERS,
    problems=(409, 412),
)
async def put_destination(request: ApiRequest) -> ApiResponse:
    """Create or replace a destination.

    Omitted fields get their defaults. An existing destination stays enabled or disabled. The URL must be within the
    address ranges, ports and schemes that this installation allows.
    """
    condition = read_precondition(request)
    spec = await request.body(DestinationSpec)
    own, others = await request.parts.destinations.count_subscriptions(request.tenant, request.id)
    if len(spec.event_types) > own and others + len(spec.event_types) > MAX_SUBSCRIPTIONS:
        raise ValidationError(
            "event_types",
            f"the tenant's destinations may name {MAX_SUBSCRIPTIONS:,} event types together, and name {others:,}; "
            "use groups such as `invoice.*`",
        )
    fields = msgspec.structs.asdict(spec)
    return _respond(
        await request.parts.configuration.set_destination(
            request.tenant, request.id, fields, by=request.by, address=request.address, precondition=condition
        )
    )


@OPERATIONS.add("GET", ONE, _ONE, roles=READERS, problems=(404,))
async def get_destination(request: ApiRequest) -> ApiResponse:
    """Get a destination."""
    return _respond(await request.parts.configuration.get_destination(request.tenant, request.id))


@OPERATIONS.add(
    "DELETE",
    ONE,
    {204: ResponseDoc("The destination is deleted.")},
    roles=ADMINS,
    headers=HEADERS,
    problems=(404, 409, 412),
)
async def delete_destination(request: ApiRequest) -> ApiResponse:
    """Delete a destination.

    Its pending deliveries fail with `destination.not_found`. They are kept, and can be replayed.
    """
    await request.parts.configuration.delete_destination(
        request.tenant, request.id, by=request.by, address=request.address, precondition=read_precondition(request)
    )
    return ApiResponse(status=204)


@OPERATIONS.add("POST", ONE + "/enable", _ONE, roles=MANAGERS, headers=HEADERS, problems=(404, 409, 412))
async def enable_destination(request: ApiRequest) -> ApiResponse:
    """Enable a destination.

    Deliveries that were skipped while the destination was disabled are not sent. Replay them if needed.
    """
    return _respond(
        await request.parts.configuration.enable_destination(
            request.tenant, request.id, by=request.by, address=request.address, precondition=read_precondition(request)
        )
    )


@OPERATIONS.add(
    "POST",
    ONE + "/disable",
    _ONE,
    roles=MANAGERS,
    body=Disabling,
    body_required=False,
    body_example={"reason": "Receiver migration until Monday"},
    headers=HEADERS,
    problems=(404, 409, 412),
)
async def disable_destination(request: ApiRequest) -> ApiResponse:
    """Disable a destination.

    Deliveries are skipped from now on. They are kept, and can be replayed.
    """
    condition = read_precondition(request)
    body = await request.optional_body(Disabling) or Disabling()
    return _respond(
        await request.parts.configuration.disable_destination(
            request.tenant,
            request.id,
            by=request.by,
            reason=body.reason,
            address=request.address,
            precondition=condition,
        )
    )


@OPERATIONS.add(
    "POST",
    ONE + "/test",
    {
        200: ResponseDoc(
            "The attempt is complete. A refusal by the receiver is in `result`; it is not an error of this request.",
            TestResult,
            headers=_LOCATION,
        ),
        202: ResponseDoc(
            "The ping is queued: no consumer has made the attempt yet.",
            TestResult,
            {"id": "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB", "result": None},
            _LOCATION,
        ),
    },
    roles=MANAGERS,
    problems=(404,),
)
async def test_destination(request: ApiRequest) -> ApiResponse:
    """Send a signed test delivery to a destination.

    Its event type is `oneprotect.ping`. A consumer signs and sends it like any delivery, but makes a single attempt and
    never keeps it. The API responds when the attempt is complete.
    """
    parts, tenant, name = request.parts, request.tenant, request.id
    destination = await parts.configuration.get_destination(tenant, name)
    await parts.configuration.audit_test(tenant, name, by=request.by, address=request.address)
    ping = _ping(tenant, name)
    async with follow(parts.connection, tenant, name) as attempts:
        headers = {
            HEADER_MSG_ID: subjects.msg_id(tenant, name, ping.id),
            "content-type": CONTENT_TYPE,
            HEADER_CHECKED: "1",
        }
        await publish_request(parts.publisher, tenant, name, encode(ping), headers)
        result = None
        try:
            async with asyncio.timeout((destination.timeout_s or parts.request_timeout_s) + TEST_MARGIN_S):
                async for event in attempts:
                    if event.data.delivery == ping.id and event.data.outcome is not Outcome.SUPPRESSED:
                        result = to_public(event.data, public=request.is_public)
                        break
        except TimeoutError:
            pass
    location = {"location": f"/v1/tenants/{tenant}/deliveries/{ping.id}"}
    body = TestResult(id=ping.id, result=result)
    return ApiResponse(status=202 if result is None else 200, body=body, headers=location)


def _ping(tenant: str, destination: str) -> DeliveryRequested:
    now = datetime.now(UTC)
    payload = msgspec.Raw(msgspec.json.encode({"type": PING, "timestamp": now}))
    data = RequestedData(destination=destination, event_type=PING, payload=payload)
    return new_event(tenant, new_delivery_id(), now, data)


def _respond(view: DestinationView) -> ApiResponse:
    return ApiResponse(body=view, headers={"etag": format_entity_tag(view.revision)})
