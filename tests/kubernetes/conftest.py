"""An API server for each test, with one Secret, and a provider that runs in its cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.circuit_breaker import CircuitBreaker
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import ReadRetryPolicy
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.manifests import manifest
from tests.kubernetes.resolving import ALLOWED, Clock, Pauses


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server on the loopback that holds `webhooks/acme-signing`."""
    async with ApiServer.running(tmp_path) as running:
        running.put(manifest())
        yield running


@pytest.fixture
def pauses() -> Pauses:
    """Pauses of the provider between tries, which use no time."""
    return Pauses()


@pytest.fixture
def breaker_clock() -> Clock:
    """By which the provider's breaker opens and closes."""
    return Clock()


@pytest_asyncio.fixture
async def provider(
    server: ApiServer, tmp_path: Path, pauses: Pauses, breaker_clock: Clock
) -> AsyncIterator[KubernetesSecretProvider]:
    """A provider with the service account in `tmp_path / "account"`, whose draws are the longest allowed."""
    opened = KubernetesSecretProvider(
        namespaces_allowed=ALLOWED,
        server=await ApiServerConfig.in_cluster(
            directory=server.service_account(tmp_path / "account"), environ=server.environ
        ),
        retry_policy=ReadRetryPolicy(sleep=pauses, jitter=max),
        breaker=CircuitBreaker(clock=breaker_clock, jitter=max),
    )
    yield opened
    await opened.aclose()
