"""Deliveries that failed or were skipped, with filters."""

import asyncio
import functools
from typing import Final

from msgspec import Struct

from consumers.replay.source import find_superseded
from consumers.retention.retained import read_page
from oneprotect.api.operations.visibility import expand_public_codes, to_public_code
from oneprotect.api.web.pagination import Cursor, decode_position, encode_position
from oneprotect.console.web.forms import parse_time_range
from oneprotect.console.web.request import PageRequest, PageResponse
from schemas.codes import Code
from schemas.configuration import ReplayFilter
from schemas.ids import DeliveryId, DestinationId, EventType

SHOWN: Final = 50
SUPERSEDED_TIMEOUT_S: Final = 1.0
"""The maximum duration of the search for later attempts of a page. A dry run searches to the end."""


class FailedForm(Struct, frozen=True, kw_only=True):
    """The fields of the form."""

    destination: DestinationId | None = None
    code: Code | None = None
    event_type: EventType | None = None
    delivery: DeliveryId | None = None
    since: str | None = None
    until: str | None = None
    cursor: Cursor | None = None

    def to_filter(self, request: PageRequest) -> ReplayFilter:
        """Return the filter of the form. Raises `ValidationError`."""
        since, until = parse_time_range(self.since, self.until)
        codes = expand_public_codes({self.code} if self.code else (), public=request.is_public)
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
        """The fields with a value, for a query string."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "cursor"}
        return {name: str(value) for name, value in values.items() if value}


async def show(request: PageRequest) -> PageResponse:
    """Show a page of retained deliveries, and mark those that a replay would skip."""
    form = request.query(FailedForm)
    connection = request.parts.connection
    found = await read_page(
        connection, request.tenant, form.to_filter(request), limit=SHOWN, before=decode_position(form.cursor)
    )
    kept = [one.delivery for one in found.items]
    is_judged = True
    try:
        async with asyncio.timeout(SUPERSEDED_TIMEOUT_S):
            kept = list((await find_superseded(connection, request.tenant, kept)).marked_deliveries())
    except TimeoutError:
        is_judged = False
    return request.render(
        "failed.html",
        tenant=request.tenant,
        filters=form,
        kept=kept,
        is_judged=is_judged,
        next=encode_position(found.cursor),
        reached_at=found.reached_at,
        codes=sorted({code.public if request.is_public else code for code in Code}),
        to_public_code=functools.partial(to_public_code, public=request.is_public),
    )
