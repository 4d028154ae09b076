"""Destinations and credentials as the console shows them: only the host of a URL, and only the status of a Secret."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec

from consumers.destinations.hourly_stats import hour_of
from oneprotect.api.operations.visibility import to_public_credential
from oneprotect.api.web.pagination import PageQuery, read_list_page
from oneprotect.console.web.bar_chart import DaySummary, summarize_day
from oneprotect.console.web.request import ConsoleDependencies
from schemas.codes import Code, CredentialStatus
from schemas.configuration import CredentialView, DestinationView, Health
from schemas.hourly_stats import HourlyStats

_SIGNING: Final = frozenset({CredentialStatus.CONFIGURED, CredentialStatus.UNCHECKED})


class DestinationCard(msgspec.Struct, frozen=True, kw_only=True):
    """A destination with its credential, health and recent activity."""

    id: str
    host: str
    view: DestinationView
    state: str
    health: Health
    last_code: Code | None
    day: DaySummary
    credential: CredentialView | None


class TenantOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the destinations and a page of the credentials of a tenant, by id.

    `next_destinations`, `next_credentials`: cursor of the next page. `users`: the destinations that each credential
    signs for.
    """

    destinations: list[DestinationCard]
    destination_count: int
    next_destinations: str | None
    credentials: list[CredentialView]
    next_credentials: str | None
    users: dict[str, list[str]]

    @property
    def attempts(self) -> int:
        """The number of attempts of the last 24 hours, to these destinations."""
        return sum(card.day.attempts for card in self.destinations)

    @property
    def success_rate(self) -> float | None:
        """The share of the last 24 hours' attempts that delivered, to these destinations."""
        delivered = sum(card.day.delivered for card in self.destinations)
        return delivered / self.attempts if self.attempts else None


async def load_overview(
    parts: ConsoleDependencies, tenant: str, destinations: PageQuery, credentials: PageQuery, *, public: bool
) -> TenantOverview:
    """Return a page of each list of a tenant. Raises `JetStreamError`, and `ValidationError` for a bad cursor."""
    configuration, index = parts.api.configuration, parts.api.destinations
    views, signing, count = await asyncio.gather(
        read_list_page(destinations, partial(configuration.page_destinations, tenant)),
        read_list_page(credentials, partial(configuration.page_credentials, tenant)),
        index.count(tenant),
    )
    return TenantOverview(
        destinations=await _load_cards(parts, tenant, views.items, public=public),
        destination_count=count,
        next_destinations=views.next,
        credentials=[to_public_credential(view, public=public) for view in signing.items],
        next_credentials=signing.next,
        users={view.id: sorted(await index.users(tenant, view.id)) for view in signing.items},
    )


async def load_card(parts: ConsoleDependencies, tenant: str, name: str, *, public: bool) -> DestinationCard:
    """Return the card of one destination. Raises `NotFoundError` or `JetStreamError`."""
    view = await parts.api.configuration.get_destination(tenant, name)
    (card,) = await _load_cards(parts, tenant, [view], public=public)
    return card


async def _load_cards(
    parts: ConsoleDependencies, tenant: str, views: Sequence[DestinationView], *, public: bool
) -> list[DestinationCard]:
    keys = [f"{tenant}.{view.id}" for view in views]
    stored, health, activity = await asyncio.gather(
        parts.api.configuration.get_credentials(tenant, sorted({view.credential for view in views})),
        parts.health.get_all(keys),
        parts.activity.get_all(keys),
    )
    credentials = {view.id: to_public_credential(view, public=public) for view in stored}
    healths = {row.id: row.value for row in health}
    activities = {row.id: row.value for row in activity}
    return [
        _card(view, credentials.get(view.credential), healths.get(view.id), activities.get(view.id), public=public)
        for view in views
    ]


def _card(
    view: DestinationView,
    credential: CredentialView | None,
    health: Health | None,
    activity: HourlyStats | None,
    *,
    public: bool,
) -> DestinationCard:
    health = health or Health()
    now = datetime.now(UTC)
    day = summarize_day((activity or HourlyStats()).last_day(hour_of(now.timestamp())))
    return DestinationCard(
        id=view.id,
        host=urlsplit(view.url).hostname or "",
        view=view,
        state=_state(view, credential, health, day, now),
        health=health,
        last_code=health.last_code.public if public and health.last_code else health.last_code,
        day=day,
        credential=credential,
    )


def _state(
    view: DestinationView, credential: CredentialView | None, health: Health, day: DaySummary, now: datetime
) -> str:
    if not view.enabled:
        return "disabled"
    if credential is None or credential.status not in _SIGNING:
        return "unsigned"
    if health.open_until is not None and health.open_until > now:
        return "open"
    if health.consecutive_failures or (day.attempts and not day.delivered):
        return "failing"
    return "healthy" if day.attempts or health.last_success_at else "quiet"
