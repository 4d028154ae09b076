"""All of it, in order. What can't be asked is said, and the rest goes on without it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from messaging.client.client import ServerAccess
from messaging.client.connection import NatsConnection, connect
from messaging.client.errors import JetStreamError, ServerUnavailable
from oneprotect.doctor import nats_server
from oneprotect.doctor.backlog import check_work
from oneprotect.doctor.credentials import check_credentials
from oneprotect.doctor.files import check_files
from oneprotect.doctor.installation import InstallationSettings, check_settings
from oneprotect.doctor.rbac import AccessReviewer, check_permissions, not_in_a_cluster
from oneprotect.doctor.registered_credentials import RegisteredCredential, list_registered
from oneprotect.doctor.result import CheckGroup, CheckResult, CheckStatus
from oneprotect.doctor.streams import check_streams
from oneprotect.doctor.telemetry import check_telemetry
from provider.provider import SnapshotReader

PART_S: Final = 20.0
"""What any part may take. Each question has a shorter limit of its own."""
OF_NATS: Final = ("streams", "work", "credentials")
NO_NATS: Final = "it could not be looked at without NATS"

Clock = Callable[[], datetime]


class SecretSources(Struct, frozen=True):
    """Where secrets come from, and what may be done there. `problem`: why the provider could not be opened."""

    reader: SnapshotReader | None = None
    reviews: AccessReviewer | None = None
    problem: str | None = None


async def examine(
    installation: InstallationSettings, sources: SecretSources, *, now: Clock = lambda: datetime.now(UTC)
) -> list[CheckResult]:
    """Every check, in the order in which one mends them. `now` is this host's clock."""
    checks = [*check_settings(installation), *check_files(installation)]
    registered: list[RegisteredCredential] | None = None
    try:
        async with connect(_access(installation), name="oneprotect-doctor") as connection:
            examination = _ConnectionChecks(connection, installation, sources, now)
            checks += await examination.run()
            registered = examination.registered
    except ServerUnavailable as error:
        checks.append(nats_server.unreachable(installation, error))
        checks += [nats_server.skipped(group, NO_NATS) for group in OF_NATS]
    checks += await _permissions(installation, sources, registered)
    return checks + await _part("telemetry", lambda: check_telemetry(installation))


def _access(installation: InstallationSettings) -> ServerAccess:
    return ServerAccess(
        url=installation.nats_url,
        creds_file=installation.nats_creds_file,
        nkey_file=installation.nats_nkey_file,
        ca_file=installation.nats_ca_file,
        inbox_prefix=installation.nats_inbox_prefix,
    )


class _ConnectionChecks:
    """What is asked over one connection."""

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
            return [*checks, *(nats_server.skipped(group, "the server is too old") for group in OF_NATS)]
        checks += await _part("nats", self._server)
        if checks[-1].name == "jetstream" and checks[-1].status is CheckStatus.FAILED:
            return [*checks, *(nats_server.skipped(group, "JetStream is not enabled") for group in OF_NATS)]
        checks += await _part("nats", self._clock)
        checks += await _part("streams", lambda: check_streams(self._connection, self._installation))
        checks += await _part("work", lambda: check_work(self._connection))
        return checks + await _part("credentials", self._credentials)

    async def _server(self) -> list[CheckResult]:
        checks = [
            await nats_server.check_round_trip(self._connection),
            await nats_server.check_jetstream(self._connection),
        ]
        if checks[-1].status is CheckStatus.OK:
            checks.insert(1, await nats_server.check_storage(self._connection))
        return checks

    async def _clock(self) -> list[CheckResult]:
        return [await nats_server.check_clock(self._connection, self._now)]

    async def _credentials(self) -> list[CheckResult]:
        registered = await list_registered(self._connection, self._installation.central_namespace)
        self.registered = registered
        is_local = self._installation.provider == "local"
        return await check_credentials(registered, self._sources.reader, is_local=is_local)


async def _part(group: str, examine_part: Callable[[], Awaitable[list[CheckResult]]]) -> list[CheckResult]:
    try:
        async with asyncio.timeout(PART_S):
            return await examine_part()
    except (JetStreamError, TimeoutError) as error:
        unanswered = nats_server.unanswered(group, error)
    return [unanswered]


async def _permissions(
    installation: InstallationSettings, sources: SecretSources, registered: list[RegisteredCredential] | None
) -> list[CheckResult]:
    checks: list[CheckResult] = []
    if sources.problem is not None:
        checks.append(
            CheckGroup("credentials").failed(
                "secret provider", sources.problem, "see docs/reference/settings.md; run it where a consumer runs"
            )
        )
    reviews = sources.reviews
    if reviews is not None:
        namespaces = installation.namespaces
        checks += await _part("permissions", lambda: check_permissions(reviews, namespaces, registered))
    elif installation.provider == "kubernetes" and sources.problem is None:
        checks.append(not_in_a_cluster())
    return checks
