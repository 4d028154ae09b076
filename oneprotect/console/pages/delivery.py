"""One delivery: where it stands at each of its destinations, and how each attempt went."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from consumers.attempts.timeline import Timeline, timelines
from oneprotect.api.operations.public_codes import told
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.request import Shown, Visit
from schemas import validation as checked
from schemas.ids import DestinationId


class Query(Struct, frozen=True, kw_only=True):
    """Which destination, if one."""

    destination: Annotated[DestinationId, Meta(description="The one to show.")] | None = None


async def show(visit: Visit) -> Shown:
    """The page."""
    delivery = checked.delivery_id(visit.request.path_params["delivery"], "delivery")
    destination = visit.query(Query).destination
    found = await timelines(visit.parts.api.connection, visit.tenant, delivery, destination)
    if not found:
        raise Problem(404, "not-found", "The tenant has no delivery of this id that waits or is on record (30 days).")
    return visit.page(
        "delivery.html",
        tenant=visit.tenant,
        delivery=delivery,
        timelines=[_told(timeline, public=visit.is_public) for timeline in found],
    )


def _told(timeline: Timeline, *, public: bool) -> Timeline:
    return msgspec.structs.replace(
        timeline,
        attempts=[told(attempt, public=public) for attempt in timeline.attempts],
        code=timeline.code.public if public and timeline.code else timeline.code,
    )
