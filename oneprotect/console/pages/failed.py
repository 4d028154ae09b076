"""Deliveries that were given up on or skipped, with filters."""

import asyncio
import functools
from typing import Final

from msgspec import Struct

from consumers.replay.source import find_superseded
from consumers.retention.retained import read_page
from oneprotect.api.operations.public_codes import expand_public_codes
from oneprotect.api.web.pagination import Cursor, decode_cursor, encode_cursor
from oneprotect.console.web.request import PagePosition, PageRequest, PageResponse, times_of_input
from schemas.codes import Code
from schemas.configuration import ReplayFilter
from schemas.ids import DeliveryId, DestinationId, EventType

SHOWN: Final = 50
JUDGING_TIMEOUT_S: Final = 1.0
"""What was attempted since is looked for among all that is on record since: for so long. A dry run looks to the end."""


class FailedForm(Struct, frozen=True, kw_only=True):
    """What the form says."""

    destination: DestinationId | None = None
    code: Code | None = None
    event_type: EventType | None = None
    delivery: DeliveryId | None = None
    since: str | None = None
    until: str | None = None
    cursor: Cursor | None = None

    def chosen(self, visit: PageRequest) -> ReplayFilter:
        """The kept deliveries that are meant. Raises `ValidationError`."""
        since, until = times_of_input(self.since, self.until)
        codes = expand_public_codes({self.code} if self.code else (), public=visit.is_public)
        return ReplayFilter(
            destination=self.destination,
            since=since,
            until=until,
            codes=tuple(sorted(code.value for code in codes)),
            event_types=(self.event_type,) if self.event_type else (),
            ids=(self.delivery,) if self.delivery else (),
        )

    @property
    def pairs(self) -> dict[str, str]:
        """The fields that are filled in, for an address."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "cursor"}
        return {name: str(value) for name, value in values.items() if value}


async def show(visit: PageRequest) -> PageResponse:
    """A page of them, each with whether a replay would take it."""
    filters = visit.query(FailedForm)
    found = await read_page(
        visit.parts.api.connection,
        visit.tenant,
        filters.chosen(visit),
        limit=SHOWN,
        before=decode_cursor(filters.cursor, PagePosition).before if filters.cursor else None,
    )
    kept = [one.delivery for one in found.items]
    is_judged = True
    try:
        async with asyncio.timeout(JUDGING_TIMEOUT_S):
            kept = list((await find_superseded(visit.parts.api.connection, visit.tenant, kept)).marked_deliveries())
    except TimeoutError:
        is_judged = False
    return visit.page(
        "failed.html",
        tenant=visit.tenant,
        filters=filters,
        kept=kept,
        is_judged=is_judged,
        next=encode_cursor(PagePosition(found.cursor)) if found.cursor else None,
        reached_at=found.reached_at,
        codes=sorted({code.public if visit.is_public else code for code in Code}),
        told_code=functools.partial(told_code, public=visit.is_public),
    )


def told_code(code: str, *, public: bool) -> str:
    """A code as whoever looks may know it."""
    return Code(code).public.value if public and code in set(Code) else code
