"""One destination: its health, its settings, its latest attempts; enable, disable, test."""

from typing import Final

import msgspec
from msgspec import Struct

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from oneprotect.api.operations.public_codes import to_public
from oneprotect.api.resources import test_deliveries
from oneprotect.console.pages.destination_cards import one_destination
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import PageRequest, PageResponse, redirect

SHOWN: Final = 10


class DestinationQuery(Struct, frozen=True, kw_only=True):
    """What was done before."""

    done: str | None = None


async def show(visit: PageRequest) -> PageResponse:
    """The page."""
    return await _page(visit, done=DONE.get(visit.query(DestinationQuery).done or ""))


async def enable(visit: PageRequest) -> PageResponse:
    """Let deliveries go there."""
    await visit.keepers_form()
    await visit.parts.api.configuration.enable_destination(
        visit.tenant, visit.id, by=visit.principal.id, address=visit.address
    )
    return redirect(f"{visit.base}/destinations/{visit.id}?done=enabled")


async def disable(visit: PageRequest) -> PageResponse:
    """Let none go there."""
    await visit.keepers_form()
    await visit.parts.api.configuration.disable_destination(
        visit.tenant, visit.id, by=visit.principal.id, address=visit.address
    )
    return redirect(f"{visit.base}/destinations/{visit.id}?done=disabled")


async def test(visit: PageRequest) -> PageResponse:
    """Send a ping, and show how it went."""
    await visit.keepers_form()
    answer = await test_deliveries.test_destination(visit.call)
    result = msgspec.convert(answer.body, test_deliveries.TestResult, from_attributes=True)
    return await _page(visit, ping=result)


async def _page(
    visit: PageRequest, *, done: str | None = None, ping: "test_deliveries.TestResult | None" = None
) -> PageResponse:
    card = await one_destination(visit.parts, visit.tenant, visit.id, public=visit.is_public)
    found = await search.read_page(
        visit.parts.api.connection, AttemptFilter(tenant=visit.tenant, destination=visit.id), limit=SHOWN
    )
    latest = [to_public(one.event.data, public=visit.is_public) for one in found.items]
    return visit.page("destination.html", tenant=visit.tenant, card=card, attempts=latest, done=done, ping=ping)
