"""One delivery: where it stands at each of its destinations, and how each attempt went."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from consumers.attempts.timeline import DeliveryTimeline, read_timelines
from oneprotect.api.operations.public_codes import to_public
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.request import PageRequest, PageResponse
from schemas import validation
from schemas.ids import DestinationId


class DeliveryQuery(Struct, frozen=True, kw_only=True):
    """Which destination, if one."""

    destination: Annotated[DestinationId, Meta(description="The one to show.")] | None = None


async def show(visit: PageRequest) -> PageResponse:
    """The page."""
    delivery = validation.delivery_id(visit.request.path_params["delivery"], "delivery")
    destination = visit.query(DeliveryQuery).destination
    found = await read_timelines(visit.parts.api.connection, visit.tenant, delivery, destination)
    if not found:
        raise Problem(404, "not-found", "The tenant has no delivery of this id that waits or is on record (30 days).")
    return visit.page(
        "delivery.html",
        tenant=visit.tenant,
        delivery=delivery,
        timelines=[_told(timeline, public=visit.is_public) for timeline in found],
    )


def _told(timeline: DeliveryTimeline, *, public: bool) -> DeliveryTimeline:
    return msgspec.structs.replace(
        timeline,
        attempts=[to_public(attempt, public=public) for attempt in timeline.attempts],
        code=timeline.code.public if public and timeline.code else timeline.code,
    )
