"""Destinations over HTTP."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from oneprotect.api.operations.operation import ADMINS, MANAGERS, READERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.preconditions import HEADERS, format_entity_tag, read_precondition
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import Page, PageQuery, page_of
from schemas.configuration import DestinationSpec, DestinationView

OPERATIONS: Final = OperationGroup("destinations")
LIST: Final = "/v1/tenants/{tenant}/destinations"
ONE: Final = LIST + "/{id}"


class DestinationPage(Page[DestinationView], frozen=True):
    """Destinations by id."""


class Disabling(Struct, frozen=True, forbid_unknown_fields=True):
    """The reason for disabling a destination."""

    reason: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)",
                description="A text for people, shown with the destination.",
            ),
        ]
        | None
    ) = None


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
)
async def list_destinations(request: ApiRequest) -> ApiResponse:
    """List destinations."""
    query = request.query(PageQuery)
    views = await request.parts.configuration.list_destinations(request.tenant)
    return ApiResponse(body=page_of(views, query, key=lambda view: view.id))


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
    fields = msgspec.structs.asdict(await request.body(DestinationSpec))
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


def _respond(view: DestinationView) -> ApiResponse:
    return ApiResponse(body=view, headers={"etag": format_entity_tag(view.revision)})
