"""One destination: its health, its settings, its latest attempts; enable, disable, test."""

from typing import Final

import msgspec
from msgspec import Struct

from consumers.attempts import search as attempts
from consumers.attempts.search import Sought
from oneprotect.api.operations.public_codes import told
from oneprotect.api.resources import test_deliveries as ping
from oneprotect.console.pages.destination_cards import one_destination
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import Shown, Visit, redirect

SHOWN: Final = 10


class Query(Struct, frozen=True, kw_only=True):
    """What was done before."""

    done: str | None = None


async def show(visit: Visit) -> Shown:
    """The page."""
    return await _page(visit, done=DONE.get(visit.query(Query).done or ""))


async def enable(visit: Visit) -> Shown:
    """Let deliveries go there."""
    await visit.keepers_form()
    await visit.parts.api.configuration.enable_destination(
        visit.tenant, visit.id, by=visit.principal.id, address=visit.address
    )
    return redirect(f"{visit.base}/destinations/{visit.id}?done=enabled")


async def disable(visit: Visit) -> Shown:
    """Let none go there."""
    await visit.keepers_form()
    await visit.parts.api.configuration.disable_destination(
        visit.tenant, visit.id, by=visit.principal.id, address=visit.address
    )
    return redirect(f"{visit.base}/destinations/{visit.id}?done=disabled")


async def test(visit: Visit) -> Shown:
    """Send a ping, and show how it went."""
    await visit.keepers_form()
    answer = await ping.test_destination(visit.call)
    result = msgspec.convert(answer.body, ping.TestResult, from_attributes=True)
    return await _page(visit, ping=result)


async def _page(visit: Visit, *, done: str | None = None, ping: "ping.TestResult | None" = None) -> Shown:
    card = await one_destination(visit.parts, visit.tenant, visit.id, public=visit.is_public)
    found = await attempts.page(
        visit.parts.api.connection, Sought(tenant=visit.tenant, destination=visit.id), limit=SHOWN
    )
    latest = [told(one.event.data, public=visit.is_public) for one in found.items]
    return visit.page("destination.html", tenant=visit.tenant, card=card, attempts=latest, done=done, ping=ping)
