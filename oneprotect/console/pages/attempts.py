"""Attempts: a list with filters, the list as it grows, and the attempts of one delivery."""

from collections.abc import AsyncGenerator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from consumers.attempts.timeline import DeliveryTimeline, read_timelines
from messaging.reverse_reader import EXAMINED
from oneprotect.api.operations.visibility import expand_public_codes, to_public
from oneprotect.api.web.pagination import Cursor, decode_position, encode_position
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.event_stream import EventBuffer, stream_events
from oneprotect.console.web.forms import parse_time_range
from oneprotect.console.web.request import PageRequest, PageResponse, redirect
from schemas import validation
from schemas.codes import Code, Outcome
from schemas.events import DeliveryAttempted
from schemas.ids import DeliveryId, DestinationId

EXAMINED_FURTHER: Final = 8 * EXAMINED
"""The number of attempts that a search examines when the user asks for older ones."""


class AttemptsForm(Struct, frozen=True, kw_only=True):
    """The fields of the form."""

    destination: DestinationId | None = None
    delivery: DeliveryId | None = None
    outcome: Outcome | None = None
    code: Code | None = None
    since: str | None = None
    until: str | None = None
    cursor: Cursor | None = None
    live: str | None = None

    def to_filter(self, request: PageRequest) -> AttemptFilter:
        """Return the filter of the form. Raises `ValidationError`."""
        since, until = parse_time_range(self.since, self.until)
        return AttemptFilter(
            tenant=request.tenant,
            destination=self.destination,
            outcomes=frozenset({self.outcome} if self.outcome else ()),
            codes=expand_public_codes({self.code} if self.code else (), public=request.is_public),
            since=since,
            until=until,
        )


class DeliveryQuery(Struct, frozen=True, kw_only=True):
    """The query of a delivery's page."""

    destination: Annotated[DestinationId, Meta(description="The only destination to show.")] | None = None


async def show(request: PageRequest) -> PageResponse:
    """Show a page of attempts, newest first."""
    form = request.query(AttemptsForm)
    if form.delivery:
        return redirect(f"{request.base}/deliveries/{form.delivery}")
    found = await search.read_page(
        request.parts.connection,
        form.to_filter(request),
        before=decode_position(form.cursor),
        examine=EXAMINED_FURTHER if form.cursor else EXAMINED,
    )
    return request.render(
        "attempts.html",
        tenant=request.tenant,
        filters=form,
        attempts=[to_public(one.event.data, public=request.is_public) for one in found.items],
        next=encode_position(found.cursor),
        is_short=len(found.items) < search.PAGE_SIZE,
        reached_at=found.reached_at,
        outcomes=list(Outcome),
        codes=sorted({code.public if request.is_public else code for code in Code}),
        is_live=bool(form.live) and not form.cursor,
    )


async def show_delivery(request: PageRequest) -> PageResponse:
    """Show the state and the attempts of one delivery at each of its destinations."""
    delivery = validation.delivery_id(request.http.path_params["delivery"], "delivery")
    destination = request.query(DeliveryQuery).destination
    found = await read_timelines(request.parts.connection, request.tenant, delivery, destination)
    if not found:
        raise Problem(404, "not-found", "The tenant has no pending or recorded delivery with this id (30 days).")
    return request.render(
        "delivery.html",
        tenant=request.tenant,
        delivery=delivery,
        timelines=[_to_public_timeline(timeline) if request.is_public else timeline for timeline in found],
    )


def follow(request: PageRequest) -> AsyncGenerator[bytes]:
    """Return the matching attempts as server-sent events. Raises `Problem` or `ValidationError` before the first."""
    chosen = request.query(AttemptsForm).to_filter(request)
    arrivals = EventBuffer(lambda event: chosen.destination in (None, event.data.destination) and chosen.matches(event))
    feeds = request.console.feeds
    session = request.session
    if session is None:  # the route requires one
        raise LookupError("there is no session")
    request.console.followers.require_capacity(session)

    def render(events: list[DeliveryAttempted], missed: int) -> bytes:
        feeds.count_shown(request.tenant, len(events))
        rows = [to_public(event.data, public=request.is_public) for event in reversed(events)]
        return request.console.renderer("attempt_rows.html", base=request.base, attempts=rows, missed=missed)

    async def events() -> AsyncGenerator[bytes]:
        # Counted here and not before: a stream whose response never starts never ends either.
        with request.console.followers.count(session) as is_admitted:
            if not is_admitted:
                return
            async with feeds.follow(request.tenant, arrivals):
                async for event in stream_events(
                    arrivals,
                    render,
                    may_show=lambda: feeds.may_show(request.tenant),
                    is_allowed=lambda: request.console.sessions.is_open(session),
                    stop=request.console.stop,
                ):
                    yield event

    return events()


def _to_public_timeline(timeline: DeliveryTimeline) -> DeliveryTimeline:
    return msgspec.structs.replace(
        timeline,
        attempts=[to_public(attempt, public=True) for attempt in timeline.attempts],
        code=timeline.code.public if timeline.code else None,
    )
