"""A tenant in the middle of its day: for the browser to look at, and for the pictures in the README."""

import contextlib
import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import msgspec

from consumers.destinations.hourly_stats import hour_of
from schemas import streams
from schemas.codes import CredentialStatus
from schemas.hourly_stats import TIMES_MS, HourCounts, HourlyStats
from schemas.roles import Role
from tests.kubernetes.manifests import EXPIRES_AT, OTHER_KEY, PURPOSE_LABEL, TENANT_LABEL, manifest, write
from tests.support.api import Api, running
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until


class Scene:
    """A scene: `working` accepts everything, `shaky` each second attempt, `broken` nothing until it is repaired."""

    def __init__(self, site: Site, api: Api, working: Scripted, shaky: Scripted, broken: Scripted) -> None:
        self.site = site
        self.api = api
        self.working = working
        self.shaky = shaky
        self.broken = broken
        self.failed: list[str] = []

    async def token(self, *roles: Role, tenant: str = TENANT) -> str:
        """A new token."""
        return await self.api.token(*roles, tenant=tenant)

    async def set_up(self) -> None:
        """Credentials of every kind, destinations that do well and badly, and deliveries of every ending."""
        await self._credentials()
        await self._destinations()
        await self._activity()
        self.failed = [await self.site.deliver("crm") for _ in range(12)]
        await self.site.deliver("legacy")
        for name in ("erp", "audit", "orders", "shipping", "invoices", "orders", "shipping", "orders", "invoices"):
            await self.site.deliver(name)
        await until(self._all_kept, 20)
        await until(self._checked, 20)

    async def _credentials(self) -> None:
        secrets, configuration = self.site.directory / "secrets", self.site.jetstream.configuration
        expiry = {EXPIRES_AT: (datetime.now(UTC) + timedelta(days=3)).isoformat()}
        both = {"signing": self.site.secret.encode(), "signing.previous": OTHER_KEY}
        write(secrets, manifest(name="rolling", data=both, annotations=expiry))
        others = {TENANT_LABEL: "globex", PURPOSE_LABEL: "webhook-signing"}
        write(secrets, manifest(name="others", labels=others))
        for name, secret in (("orders-key", "rolling"), ("erp-key", "no-such-secret"), ("audit-key", "others")):
            place = {"secret_ref": f"k8s://{NAMESPACE}/{secret}/signing"}
            await configuration.set_credential(TENANT, name, place, by="test")

    async def _destinations(self) -> None:
        working, broken = f"{self.working.url}?token=hidden", f"{self.broken.url}/hidden-path"
        await self.site.destination("orders", working, credential="orders-key", event_types=("order.*", "invoice.paid"))
        await self.site.destination("invoices", working, description="What accounting hears.", rate_per_s=50)
        await self.site.destination("shipping", self.shaky.url, retry_schedule_s=(0.3, 5, 300))
        await self.site.destination("crm", broken, retry_schedule_s=(), capture_response=True)
        await self.site.destination("legacy", broken.replace("/in", "/gone"), retry_schedule_s=())
        await self.site.destination("erp", working, credential="erp-key")
        await self.site.destination("audit", working, credential="audit-key")
        await self.site.destination("search", working)
        await self.site.jetstream.configuration.disable_destination(
            TENANT, "legacy", by="test", reason="the receiver answered 410 Gone"
        )

    async def _activity(self) -> None:
        """Store the statistics that consumers write during a day."""
        now = hour_of(datetime.now(UTC).timestamp())
        for name, share, busiest in (
            ("orders", 0.002, 900),
            ("invoices", 0.0, 140),
            ("shipping", 0.04, 320),
            ("crm", 0.3, 90),
        ):
            hours = tuple(_hour(now - 23 + number, number, share, busiest) for number in range(24))
            row = msgspec.json.encode(HourlyStats(hours))
            await self.site.jetstream.activity.put(f"{TENANT}.{name}", row)

    async def _all_kept(self) -> bool:
        return len(await self.site.records(streams.FAILED)) >= len(self.failed) + 1

    async def _checked(self) -> bool:
        views = {view.id: view.status for view in await self.site.jetstream.configuration.list_credentials(TENANT)}
        return {views[name] for name in ("orders-key", "erp-key", "audit-key")} == {
            CredentialStatus.CONFIGURED,
            CredentialStatus.MISSING,
            CredentialStatus.MISMATCH,
        }


def _hour(at: int, number: int, share: float, busiest: int) -> HourCounts:
    count = int(busiest * (0.35 + 0.6 * math.sin(number / 24 * math.pi) ** 2 + 0.05 * (number * 7 % 5)))
    failed = int(count * share * (number % 6 in (2, 3)) * 3)
    times = [0] * (len(TIMES_MS) + 1)
    for place, part in ((2, 0.3), (3, 0.5), (4, 0.17)):
        times[place] = int(count * part)
    times[5] = count - sum(times)
    return HourCounts(at, count - failed, failed, tuple(times))


@contextlib.asynccontextmanager
async def scene(site: Site) -> AsyncGenerator[Scene]:
    """A consumer, the API with the console, and receivers, with all of that in it. Waits for a Secret are long ones."""
    async with (
        Scripted() as working,
        Scripted([502, 200]) as shaky,
        Scripted([503]) as broken,
        site.consumer(),
        running(site) as api,
    ):
        opened = Scene(site, api, working, shaky, broken)
        await opened.set_up()
        yield opened
