"""Destinations over HTTP."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from oneprotect.api.operations.operation import ADMINS, KEEPERS, READERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.preconditions import HEADERS, entity_tag, read_precondition
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.web.pagination import Page, PageQuery, page_of
from schemas.configuration import DestinationSpec, DestinationView

LIST: Final = "/v1/tenants/{tenant}/destinations"
ONE: Final = LIST + "/{id}"
TAGGED: Final = {"ETag": "Its revision; `If-Match` takes it."}


class DestinationPage(Page[DestinationView], frozen=True):
    """Destinations by id."""


class Disabling(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a destination takes no deliveries for now."""

    reason: (
        Annotated[
            str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)", description="For people.")
        ]
        | None
    ) = None


EXAMPLE: Final = {
    "url": "https://example.com/webhooks",
    "credential": "orders-key",
    "event_types": ["invoice.*"],
    "rate_per_s": 50,
}
EXAMPLE_VIEW: Final[dict[str, Any]] = {
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


async def list_destinations(call: ApiRequest) -> ApiResponse:
    """All of the tenant's, by id."""
    query = call.query(PageQuery)
    views = await call.parts.configuration.list_destinations(call.tenant)
    return ApiResponse(body=page_of(views, query, key=lambda view: view.id))


async def put_destination(call: ApiRequest) -> ApiResponse:
    """Create or replace."""
    condition = read_precondition(call)
    spec = await call.body(DestinationSpec)
    view = await call.parts.configuration.set_destination(
        call.tenant, call.id, msgspec.structs.asdict(spec), by=call.by, address=call.address, precondition=condition
    )
    return _shown(view)


async def get_destination(call: ApiRequest) -> ApiResponse:
    """One of them."""
    return _shown(await call.parts.configuration.get_destination(call.tenant, call.id))


async def delete_destination(call: ApiRequest) -> ApiResponse:
    """Forget it."""
    await call.parts.configuration.delete_destination(
        call.tenant, call.id, by=call.by, address=call.address, precondition=read_precondition(call)
    )
    return ApiResponse(status=204)


async def enable_destination(call: ApiRequest) -> ApiResponse:
    """Let deliveries go there."""
    view = await call.parts.configuration.enable_destination(
        call.tenant, call.id, by=call.by, address=call.address, precondition=read_precondition(call)
    )
    return _shown(view)


async def disable_destination(call: ApiRequest) -> ApiResponse:
    """Keep deliveries back."""
    condition = read_precondition(call)
    asked = await call.optional_body(Disabling) or Disabling()
    view = await call.parts.configuration.disable_destination(
        call.tenant, call.id, by=call.by, reason=asked.reason, address=call.address, precondition=condition
    )
    return _shown(view)


def _shown(view: DestinationView) -> ApiResponse:
    return ApiResponse(body=view, headers={"etag": entity_tag(view.revision)})


_ONE: Final = ResponseDoc(
    what="The destination, as it is now.", body=DestinationView, example=EXAMPLE_VIEW, headers=TAGGED
)

OPERATIONS: Final = (
    ApiOperation(
        method="GET",
        path=LIST,
        name="listDestinations",
        summary="List destinations",
        tag="destinations",
        roles=READERS,
        handle=list_destinations,
        query=PageQuery,
        says={
            200: ResponseDoc(
                what="A page of destinations, by id.",
                body=DestinationPage,
                example={"items": [EXAMPLE_VIEW], "next": None},
            )
        },
    ),
    ApiOperation(
        method="PUT",
        path=ONE,
        name="putDestination",
        summary="Create a destination, or replace all of it",
        description="What is left out gets its default; an existing destination stays enabled or disabled. The URL is "
        "checked against the ranges, ports and schemes that the installation allows.",
        tag="destinations",
        roles=ADMINS,
        handle=put_destination,
        body=DestinationSpec,
        body_example=EXAMPLE,
        headers=HEADERS,
        says={200: _ONE},
        problems=(409, 412),
    ),
    ApiOperation(
        method="GET",
        path=ONE,
        name="getDestination",
        summary="Show a destination",
        tag="destinations",
        roles=READERS,
        handle=get_destination,
        says={200: _ONE},
        problems=(404,),
    ),
    ApiOperation(
        method="DELETE",
        path=ONE,
        name="deleteDestination",
        summary="Delete a destination",
        description="What is still on its way there fails, with `destination.not_found`, and is kept.",
        tag="destinations",
        roles=ADMINS,
        handle=delete_destination,
        headers=HEADERS,
        says={204: ResponseDoc(what="It is gone.")},
        problems=(404, 409, 412),
    ),
    ApiOperation(
        method="POST",
        path=ONE + "/enable",
        name="enableDestination",
        summary="Let deliveries go to a destination again",
        description="What was kept meanwhile waits for a replay.",
        tag="destinations",
        roles=KEEPERS,
        handle=enable_destination,
        headers=HEADERS,
        says={200: _ONE},
        problems=(404, 409, 412),
    ),
    ApiOperation(
        method="POST",
        path=ONE + "/disable",
        name="disableDestination",
        summary="Let nothing go to a destination",
        description="Deliveries are kept from now on, and can be replayed.",
        tag="destinations",
        roles=KEEPERS,
        handle=disable_destination,
        body=Disabling,
        body_required=False,
        body_example={"reason": "moves house on Monday"},
        headers=HEADERS,
        says={200: _ONE},
        problems=(404, 409, 412),
    ),
)
