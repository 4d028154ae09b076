"""Integrations: a tenant's destinations and credentials, and their state."""

from collections import Counter
from typing import Final

from consumers.credentials.control_client import NoConsumerReplied, check_credential
from oneprotect.api.web.pagination import Cursor, Limit, PageQuery
from oneprotect.console.pages.destination_cards import load_overview
from oneprotect.console.web.labels import DONE
from oneprotect.console.web.request import PageRequest, PageResponse, redirect
from schemas import validation

SHOWN: Final = 100


class IntegrationsQuery(PageQuery, frozen=True, kw_only=True):
    """The query of the page: `cursor` and `limit` of the destinations. `done`: the action that led to the page."""

    limit: Limit = SHOWN
    credentials: Cursor | None = None
    done: str | None = None


async def show(request: PageRequest) -> PageResponse:
    """Show the tenant's integrations, or a list of tenants to a user who has to choose one."""
    if not request.has_tenant:
        keys = await request.console.destinations.list_keys("*.*")
        tenants = Counter(key.partition(".")[0] for key in keys)
        return request.render("tenants.html", tenants=sorted(tenants.items()))
    query = request.query(IntegrationsQuery)
    signing = PageQuery(limit=SHOWN, cursor=query.credentials)
    overview = await load_overview(request.console, request.tenant, query, signing, public=request.is_public)
    return request.render(
        "integrations.html",
        tenant=request.tenant,
        overview=overview,
        is_first=query.cursor is None and query.credentials is None,
        done=DONE.get(query.done or ""),
    )


async def choose(request: PageRequest) -> PageResponse:
    """Redirect to the tenant that the user entered."""
    name = request.http.query_params.get("tenant", "").strip()
    return redirect(f"/console/t/{validation.name(name, 'tenant')}/integrations")


async def check(request: PageRequest) -> PageResponse:
    """Let a consumer check the Secret of a credential now."""
    await request.manager_form()
    await request.parts.configuration.get_credential(request.tenant, request.id)
    try:
        state = await check_credential(request.parts.connection, request.tenant, request.id)
    except NoConsumerReplied:
        state = None
    return redirect(f"{request.base}/integrations?done={'no-consumer' if state is None else 'checked'}")
