"""Integrations: a tenant's destinations and credentials, and how they are."""

from typing import Final

from consumers.credentials.control_client import NoConsumerReplied, check_credential
from oneprotect.api.web.pagination import Limit, PageQuery, page_of
from oneprotect.console.pages.destination_cards import overview
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import PageRequest, PageResponse, redirect
from schemas import validation

SHOWN: Final = 100


class IntegrationsQuery(PageQuery, frozen=True, kw_only=True):
    """Which page, and what was done before."""

    limit: Limit = SHOWN
    done: str | None = None


async def show(visit: PageRequest) -> PageResponse:
    """The tenant's, or, for somebody who may see all, a choice of tenants."""
    if not visit.has_tenant:
        return await _choose(visit)
    query = visit.query(IntegrationsQuery)
    found = await overview(visit.parts, visit.tenant, public=visit.is_public)
    page = page_of(found.destinations, query, key=lambda card: card.id)
    return visit.page(
        "integrations.html",
        tenant=visit.tenant,
        overview=found,
        cards=page.items,
        next=page.next,
        is_first=query.cursor is None,
        done=DONE.get(query.done or ""),
    )


async def choose(visit: PageRequest) -> PageResponse:
    """Go to the tenant that was typed."""
    name = visit.request.query_params.get("tenant", "").strip()
    return redirect(f"/console/t/{validation.name(name, 'tenant')}/integrations")


async def check(visit: PageRequest) -> PageResponse:
    """Have a consumer read a credential's Secret now."""
    await visit.keepers_form()
    await visit.parts.api.configuration.get_credential(visit.tenant, visit.id)
    try:
        state = await check_credential(visit.parts.api.connection, visit.tenant, visit.id)
    except NoConsumerReplied:
        state = None
    return redirect(f"{visit.base}/integrations?done={'no-consumer' if state is None else 'checked'}")


async def _choose(visit: PageRequest) -> PageResponse:
    entries = await visit.parts.destinations.list("*.*")
    tenants: dict[str, int] = {}
    for entry in entries:
        tenant = entry.key.partition(".")[0]
        tenants[tenant] = tenants.get(tenant, 0) + 1
    return visit.page("tenants.html", tenants=sorted(tenants.items()))
