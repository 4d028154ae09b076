"""All checks, in the order in which an operator fixes problems. A failed request does not stop the other checks."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from messaging.client.connection import NatsConnection, connect
from messaging.client.errors import JetStreamError, ServerUnavailable
from oneprotect.doctor import nats_server
from oneprotect.doctor.backlog import check_work
from oneprotect.doctor.credentials import check_credentials
from oneprotect.doctor.durability import check_durability
from oneprotect.doctor.files import check_files
from oneprotect.doctor.installation import InstallationSettings, check_settings
from oneprotect.doctor.rbac import AccessReviewer, check_permissions, report_outside_cluster
from oneprotect.doctor.registered_credentials import RegisteredCredential, list_registered
from oneprotect.doctor.result import CheckGroup, CheckResult, CheckStatus
from oneprotect.doctor.streams import check_streams
from oneprotect.doctor.telemetry import check_telemetry
from provider.provider import SnapshotReader

GROUP_TIMEOUT_S: Final = 20.0
"""Limit for each group of checks. Each request has a shorter limit of its own."""
NATS_GROUPS: Final = ("streams", "work", "credentials")

Clock = Callable[[], datetime]


class SecretSources(Struct, frozen=True):
    """Access to Secrets and permissions. `problem` is why the provider could not be opened."""

    reader: SnapshotReader | None = None
    reviews: AccessReviewer | None = None
    problem: str | None = None


async def examine(
    installation: InstallationSettings, sources: SecretSources, *, now: Clock = lambda: datetime.now(UTC)
) -> list[CheckResult]:
    """Run every check. `now` is this host's clock."""
    checks = [*check_settings(installation), *check_files(installation)]
    registered: list[RegisteredCredential] | None = None
    try:
        async with connect(installation.nats, name="oneprotect-doctor") as connection:
            connected = _ConnectionChecks(connection, installation, sources, now)
            checks += await connected.run()
            registered = connected.registered
    except ServerUnavailable as error:
        checks.append(nats_server.report_unreachable(installation.nats, error))
        checks += _skip_nats_groups("not checked, because NATS is unreachable")
    checks += await _check_permissions(installation, sources, registered)
    return checks + await _run_group("telemetry", lambda: check_telemetry(installation))


class _ConnectionChecks:
    """The checks that need a connection to NATS."""

    def __init__(
        self, connection: NatsConnection, installation: InstallationSettings, sources: SecretSources, now: Clock
    ) -> None:
        self.registered: list[RegisteredCredential] | None = None
        self._connection = connection
        self._installation = installation
        self._sources = sources
        self._now = now

    async def run(self) -> list[CheckResult]:
        version = nats_server.check_version(self._connection)
        checks = [CheckGroup("nats").ok("reachable", "connected"), version]
        if version.status is CheckStatus.FAILED:
            return checks + _skip_nats_groups("not checked, because the server is too old")
        checks += await _run_group("nats", self._check_server)
        if checks[-1].name == "jetstream" and checks[-1].status is CheckStatus.FAILED:
            return checks + _skip_nats_groups("not checked, because JetStream is not available")
        checks += await _run_group("nats", self._check_clock)
        checks += await _run_group("streams", lambda: check_streams(self._connection, self._installation))
        checks += await _run_group("work", lambda: check_work(self._connection))
        return checks + await _run_group("credentials", self._check_credentials)

    async def _check_server(self) -> list[CheckResult]:
        checks = [
            await nats_server.check_round_trip(self._connection),
            await nats_server.check_jetstream(self._connection),
        ]
        if checks[-1].status is CheckStatus.OK:
            checks.insert(1, await nats_server.check_storage(self._connection))
            checks.insert(2, await check_durability(self._connection))
            checks.insert(3, await nats_server.check_sizes(self._connection, self._installation))
        return checks

    async def _check_clock(self) -> list[CheckResult]:
        return [await nats_server.check_clock(self._connection, self._now)]

    async def _check_credentials(self) -> list[CheckResult]:
        self.registered = await list_registered(self._connection, self._installation.central_namespace)
        is_local = self._installation.provider == "local"
        return await check_credentials(self.registered, self._sources.reader, is_local=is_local)


def _skip_nats_groups(reason: str) -> list[CheckResult]:
    return [nats_server.report_skipped(group, reason) for group in NATS_GROUPS]


async def _run_group(group: str, run: Callable[[], Awaitable[list[CheckResult]]]) -> list[CheckResult]:
    try:
        async with asyncio.timeout(GROUP_TIMEOUT_S):
            return await run()
    except (JetStreamError, TimeoutError) as error:
        return [nats_server.report_unanswered(group, error)]


async def _check_permissions(
    installation: InstallationSettings, sources: SecretSources, registered: list[RegisteredCredential] | None
) -> list[CheckResult]:
    checks: list[CheckResult] = []
    if sources.problem is not None:
        checks.append(
            CheckGroup("credentials").failed(
                "secret provider",
                sources.problem,
                "run the doctor where a consumer runs; see docs/reference/settings.md",
            )
        )
    reviews = sources.reviews
    if reviews is not None:
        namespaces = installation.namespaces
        checks += await _run_group("permissions", lambda: check_permissions(reviews, namespaces, registered))
    elif installation.provider == "kubernetes" and sources.problem is None:
        checks.append(report_outside_cluster())
    return checks
