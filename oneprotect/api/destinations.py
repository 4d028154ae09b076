"""Destinations over HTTP."""

from oneprotect.api.call import Call
from oneprotect.api.operations import READERS, Answer, Operation, Says
from oneprotect.api.paging import Page, PageQuery, page_of
from schemas.config import DestinationView


class DestinationPage(Page[DestinationView], frozen=True):
    """Destinations by id."""


async def list_destinations(call: Call) -> Answer:
    """All of the tenant's, by id."""
    views = await call.parts.configuration.list_destinations(call.tenant)
    return Answer(body=page_of(views, call.query(PageQuery), key=lambda view: view.id))


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/tenants/{tenant}/destinations",
        name="listDestinations",
        summary="List destinations",
        tag="destinations",
        roles=READERS,
        handle=list_destinations,
        query=PageQuery,
        says={200: Says(what="A page of destinations, by id.", body=DestinationPage)},
    ),
)
