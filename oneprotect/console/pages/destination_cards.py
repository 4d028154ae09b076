"""Destinations and credentials as the console shows them: only the host of a URL, and only the status of a Secret."""

import asyncio
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec

from consumers.destinations.hourly_stats import hour_of
from oneprotect.api.operations.visibility import to_public_credential
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


class TenantOverview(msgspec.Struct, frozen=True):
    """All destinations and credentials of a tenant, by id."""

    destinations: list[DestinationCard]
    credentials: list[CredentialView]

    @property
    def attempts(self) -> int:
        """The number of attempts of the last 24 hours."""
        return sum(card.day.attempts for card in self.destinations)

    @property
    def success_rate(self) -> float | None:
        """The share of the last 24 hours' attempts that delivered."""
        delivered = sum(card.day.delivered for card in self.destinations)
        return delivered / self.attempts if self.attempts else None

    def users(self, credential: str) -> list[str]:
        """Return the ids of the destinations that the credential signs for."""
        return [card.id for card in self.destinations if card.view.credential == credential]


async def load_overview(parts: ConsoleDependencies, tenant: str, *, public: bool) -> TenantOverview:
    """Return the overview of a tenant. Raises `JetStreamError`."""
    configuration = parts.api.configuration
    views, stored, health, activity = await asyncio.gather(
        configuration.list_destinations(tenant),
        configuration.list_credentials(tenant),
        parts.health.list(f"{tenant}.*"),
        parts.activity.list(f"{tenant}.*"),
    )
    credentials = [to_public_credential(view, public=public) for view in stored]
    by_id = {view.id: view for view in credentials}
    healths = {row.id: row.value for row in health}
    activities = {row.id: row.value for row in activity}
    cards = [
        _card(view, by_id.get(view.credential), healths.get(view.id), activities.get(view.id), public=public)
        for view in views
    ]
    return TenantOverview(cards, credentials)


async def load_card(parts: ConsoleDependencies, tenant: str, name: str, *, public: bool) -> DestinationCard:
    """Return the card of one destination. Raises `NotFoundError` or `JetStreamError`."""
    configuration = parts.api.configuration
    view = await configuration.get_destination(tenant, name)
    stored, health, activity = await asyncio.gather(
        configuration.list_credentials(tenant),
        parts.health.get(f"{tenant}.{name}"),
        parts.activity.get(f"{tenant}.{name}"),
    )
    credential = next((to_public_credential(one, public=public) for one in stored if one.id == view.credential), None)
    return _card(
        view, credential, health.value if health else None, activity.value if activity else None, public=public
    )


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
