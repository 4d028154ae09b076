"""Attempts: listed with filters, and followed as they are recorded."""

from collections.abc import AsyncGenerator
from typing import Final

from msgspec import Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from messaging.reverse_reader import EXAMINED
from oneprotect.api.operations.public_codes import expand_public_codes, to_public
from oneprotect.api.web.pagination import Cursor, decode_cursor, encode_cursor
from oneprotect.console.web.event_stream import EventBuffer, listening, stream
from oneprotect.console.web.request import PagePosition, PageRequest, PageResponse, redirect, times_of_input
from schemas.codes import Code, Outcome
from schemas.events import DeliveryAttempted
from schemas.ids import DeliveryId, DestinationId

GOING_ON: Final = 8 * EXAMINED
"""How many a look may read when somebody asks to look further back: half a second's worth."""


class AttemptsForm(Struct, frozen=True, kw_only=True):
    """What the form says."""

    destination: DestinationId | None = None
    delivery: DeliveryId | None = None
    outcome: Outcome | None = None
    code: Code | None = None
    since: str | None = None
    until: str | None = None
    cursor: Cursor | None = None
    live: str | None = None

    def sought(self, visit: PageRequest) -> AttemptFilter:
        """The attempts that are meant. Raises `ValidationError`."""
        since, until = times_of_input(self.since, self.until)
        return AttemptFilter(
            tenant=visit.tenant,
            destination=self.destination,
            outcomes=frozenset({self.outcome} if self.outcome else ()),
            codes=expand_public_codes({self.code} if self.code else (), public=visit.is_public),
            since=since,
            until=until,
        )


async def show(visit: PageRequest) -> PageResponse:
    """A page of them."""
    filters = visit.query(AttemptsForm)
    if filters.delivery:
        return redirect(f"{visit.base}/deliveries/{filters.delivery}")
    found = await search.read_page(
        visit.parts.api.connection,
        filters.sought(visit),
        before=decode_cursor(filters.cursor, PagePosition).before if filters.cursor else None,
        examine=GOING_ON if filters.cursor else EXAMINED,
    )
    return visit.page(
        "attempts.html",
        tenant=visit.tenant,
        filters=filters,
        attempts=[to_public(one.event.data, public=visit.is_public) for one in found.items],
        next=encode_cursor(PagePosition(found.cursor)) if found.cursor else None,
        is_short=len(found.items) < search.PAGE_SIZE,
        reached_at=found.reached_at,
        outcomes=list(Outcome),
        codes=sorted({code.public if visit.is_public else code for code in Code}),
        is_live=bool(filters.live) and not filters.cursor,
    )


def follow(visit: PageRequest) -> AsyncGenerator[bytes]:
    """Those that fit, as they are recorded. Raises `Problem` or `ValidationError` at once."""
    sought = visit.query(AttemptsForm).sought(visit)
    arrivals = EventBuffer(sought.matches)
    pattern = f"oneprotect.delivery.attempted.{visit.tenant}.{sought.destination or '*'}.*"
    session = visit.session.id if visit.session else ""
    visit.parts.followers.require_room(session)
    token_id = visit.principal.id.removeprefix("token:")

    def render(events: list[DeliveryAttempted], missed: int) -> bytes:
        rows = [to_public(event.data, public=visit.is_public) for event in reversed(events)]
        return visit.parts.renderer("attempt_rows.html", base=visit.base, attempts=rows, missed=missed)

    async def events() -> AsyncGenerator[bytes]:
        # Counted here and not before: what is never begun to be sent is never ended either.
        with visit.parts.followers.one_more(session):
            async with listening(visit.parts.api.connection, pattern, arrivals):
                async for event in stream(
                    arrivals,
                    render,
                    goes_on=lambda: visit.parts.api.tokens.known(token_id) is not None,
                    stop=visit.parts.stop,
                ):
                    yield event

    return events()
