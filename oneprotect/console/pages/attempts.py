"""Attempts: listed with filters, and followed as they are recorded."""

from collections.abc import AsyncGenerator
from typing import Final

from msgspec import Struct

from consumers.attempts import search as attempts
from consumers.attempts.search import Sought
from messaging.reverse_reader import EXAMINED
from oneprotect.api.operations.public_codes import meant, told
from oneprotect.api.web.pagination import Cursor, decode_cursor, encode_cursor
from oneprotect.console.web.event_stream import Arrivals, listening, stream
from oneprotect.console.web.request import Place, Shown, Visit, redirect, times_of_input
from schemas.codes import Code, Outcome
from schemas.events import DeliveryAttempted
from schemas.ids import DeliveryId, DestinationId

GOING_ON: Final = 8 * EXAMINED
"""How many a look may read when somebody asks to look further back: half a second's worth."""


class Filters(Struct, frozen=True, kw_only=True):
    """What the form says."""

    destination: DestinationId | None = None
    delivery: DeliveryId | None = None
    outcome: Outcome | None = None
    code: Code | None = None
    since: str | None = None
    until: str | None = None
    cursor: Cursor | None = None
    live: str | None = None

    def sought(self, visit: Visit) -> Sought:
        """The attempts that are meant. Raises `Invalid`."""
        since, until = times_of_input(self.since, self.until)
        return Sought(
            tenant=visit.tenant,
            destination=self.destination,
            outcomes=frozenset({self.outcome} if self.outcome else ()),
            codes=meant({self.code} if self.code else (), public=visit.is_public),
            since=since,
            until=until,
        )


async def show(visit: Visit) -> Shown:
    """A page of them."""
    filters = visit.query(Filters)
    if filters.delivery:
        return redirect(f"{visit.base}/deliveries/{filters.delivery}")
    found = await attempts.page(
        visit.parts.api.connection,
        filters.sought(visit),
        before=decode_cursor(filters.cursor, Place).before if filters.cursor else None,
        examine=GOING_ON if filters.cursor else EXAMINED,
    )
    return visit.page(
        "attempts.html",
        tenant=visit.tenant,
        filters=filters,
        attempts=[told(one.event.data, public=visit.is_public) for one in found.items],
        next=encode_cursor(Place(found.cursor)) if found.cursor else None,
        is_short=len(found.items) < attempts.PAGE,
        reached_at=found.reached_at,
        outcomes=list(Outcome),
        codes=sorted({code.public if visit.is_public else code for code in Code}),
        is_live=bool(filters.live) and not filters.cursor,
    )


def follow(visit: Visit) -> AsyncGenerator[bytes]:
    """Those that fit, as they are recorded. Raises `Problem` or `Invalid` at once."""
    sought = visit.query(Filters).sought(visit)
    arrivals = Arrivals(sought.takes)
    pattern = f"oneprotect.delivery.attempted.{visit.tenant}.{sought.destination or '*'}.*"
    session = visit.session.id if visit.session else ""
    visit.parts.followers.require_room(session)
    token_id = visit.principal.id.removeprefix("token:")

    def render(events: list[DeliveryAttempted], missed: int) -> bytes:
        rows = [told(event.data, public=visit.is_public) for event in reversed(events)]
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
