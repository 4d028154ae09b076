"""A destination: health, settings and latest attempts; enable, disable and test."""

from typing import Final

import msgspec
from msgspec import Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from oneprotect.api.operations.visibility import to_public
from oneprotect.api.resources.destinations import TestResult, test_destination
from oneprotect.console.pages.destination_cards import load_card
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import PageRequest, PageResponse, redirect

SHOWN: Final = 10


class DestinationQuery(Struct, frozen=True, kw_only=True):
    """The query of the page. `done`: the action that led to it."""

    done: str | None = None


async def show(request: PageRequest) -> PageResponse:
    """Show the destination."""
    return await _render(request, done=DONE.get(request.query(DestinationQuery).done or ""))


async def enable(request: PageRequest) -> PageResponse:
    """Enable the destination."""
    await request.manager_form()
    await request.parts.configuration.enable_destination(
        request.tenant, request.id, by=request.by, address=request.address
    )
    return redirect(f"{request.base}/destinations/{request.id}?done=enabled")


async def disable(request: PageRequest) -> PageResponse:
    """Disable the destination."""
    await request.manager_form()
    await request.parts.configuration.disable_destination(
        request.tenant, request.id, by=request.by, address=request.address
    )
    return redirect(f"{request.base}/destinations/{request.id}?done=disabled")


async def test(request: PageRequest) -> PageResponse:
    """Send a test delivery, and show its result."""
    await request.manager_form()
    response = await test_destination(request)
    return await _render(request, ping=msgspec.convert(response.body, TestResult, from_attributes=True))


async def _render(request: PageRequest, *, done: str | None = None, ping: TestResult | None = None) -> PageResponse:
    card = await load_card(request.console, request.tenant, request.id, public=request.is_public)
    found = await search.read_page(
        request.parts.connection, AttemptFilter(tenant=request.tenant, destination=request.id), limit=SHOWN
    )
    latest = [to_public(one.event.data, public=request.is_public) for one in found.items]
    return request.render("destination.html", tenant=request.tenant, card=card, attempts=latest, done=done, ping=ping)
