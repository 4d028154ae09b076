"""Destinations and credentials as they are shown: of a URL its host alone, and of a Secret its status."""

import asyncio
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec

from consumers.destinations.hourly_stats import hour_of
from oneprotect.console.web.bar_chart import DaySummary, day_of
from oneprotect.console.web.dependencies import ConsoleParts
from schemas.codes import Code, CredentialStatus
from schemas.configuration import CredentialView, DestinationView, Health
from schemas.hourly_stats import HourlyStats

_SIGNING: Final = frozenset({CredentialStatus.CONFIGURED, CredentialStatus.UNCHECKED})


class DestinationCard(msgspec.Struct, frozen=True, kw_only=True):
    """A destination, its credential, and how it has been."""

    id: str
    host: str
    scheme: str
    description: str
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    event_types: tuple[str, ...]
    header_names: tuple[str, ...]
    timeout_s: float | None
    max_in_flight: int | None
    rate_per_s: float | None
    retry_schedule_s: tuple[float, ...] | None
    capture_response: bool
    forward_trace: bool
    state: str
    health: Health
    last_code: Code | None
    day: DaySummary
    credential_id: str
    credential: CredentialView | None


class TenantOverview(msgspec.Struct, frozen=True):
    """All of a tenant's destinations and credentials, by id."""

    destinations: list[DestinationCard]
    credentials: list[CredentialView]

    @property
    def day(self) -> tuple[int, int]:
        """Attempts of the last day, and how many of them delivered."""
        return (
            sum(one.day.attempts for one in self.destinations),
            sum(one.day.delivered for one in self.destinations),
        )

    @property
    def success_rate(self) -> float | None:
        """The share of the day's attempts that delivered."""
        attempts, delivered = self.day
        return delivered / attempts if attempts else None

    def users(self, credential: str) -> list[str]:
        """The destinations that a credential signs for."""
        return [one.id for one in self.destinations if one.credential_id == credential]


async def overview(parts: ConsoleParts, tenant: str, *, public: bool) -> TenantOverview:
    """Everything of a tenant. Raises `JetStreamError`."""
    configuration = parts.api.configuration
    views, credentials, health, activity = await asyncio.gather(
        configuration.list_destinations(tenant),
        configuration.list_credentials(tenant),
        parts.health.list(f"{tenant}.*"),
        parts.activity.list(f"{tenant}.*"),
    )
    told = [told_credential(view, public=public) for view in credentials]
    signing = {view.id: view for view in told}
    healths = {row.id: row.value for row in health}
    activities = {row.id: row.value for row in activity}
    cards = [
        _card(view, signing.get(view.credential), healths.get(view.id), activities.get(view.id), public=public)
        for view in views
    ]
    return TenantOverview(cards, told)


async def one_destination(parts: ConsoleParts, tenant: str, name: str, *, public: bool) -> DestinationCard:
    """One of them. Raises `NotFoundError` or `JetStreamError`."""
    configuration = parts.api.configuration
    view = await configuration.get_destination(tenant, name)
    credentials, health, activity = await asyncio.gather(
        configuration.list_credentials(tenant),
        parts.health.get(f"{tenant}.{name}"),
        parts.activity.get(f"{tenant}.{name}"),
    )
    signing = next((told_credential(one, public=public) for one in credentials if one.id == view.credential), None)
    return _card(view, signing, health.value if health else None, activity.value if activity else None, public=public)


def told_credential(view: CredentialView, *, public: bool) -> CredentialView:
    """A credential as whoever looks may know it."""
    return msgspec.structs.replace(view, status=view.status.public) if public else view


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
    day = day_of((activity or HourlyStats()).last_day(hour_of(now.timestamp())))
    url = urlsplit(view.url)
    return DestinationCard(
        id=view.id,
        host=url.hostname or "",
        scheme=url.scheme,
        description=view.description,
        enabled=view.enabled,
        disabled_reason=view.disabled_reason,
        disabled_at=view.disabled_at,
        event_types=view.event_types,
        header_names=tuple(view.headers),
        timeout_s=view.timeout_s,
        max_in_flight=view.max_in_flight,
        rate_per_s=view.rate_per_s,
        retry_schedule_s=view.retry_schedule_s,
        capture_response=view.capture_response,
        forward_trace=view.forward_trace,
        state=_state(view, credential, health, day, now),
        health=health,
        last_code=health.last_code.public if public and health.last_code else health.last_code,
        day=day,
        credential_id=view.credential,
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
        return "resting"
    if health.consecutive_failures or (day.attempts and not day.delivered):
        return "failing"
    return "healthy" if day.attempts or health.last_success_at else "quiet"
