"""An API server for each test, with one Secret, and a provider that runs in its cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from provider.kubernetes import KubernetesSecretProvider
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.manifests import manifest


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server on the loopback that holds `webhooks/acme-signing`."""
    async with ApiServer.running(tmp_path) as running:
        running.put(manifest())
        yield running


@pytest_asyncio.fixture
async def provider(server: ApiServer, tmp_path: Path) -> AsyncIterator[KubernetesSecretProvider]:
    """A provider with the service account in `tmp_path / "account"`."""
    opened = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=frozenset({"webhooks"}),
        directory=server.service_account(tmp_path / "account"),
        environ=server.environ,
    )
    yield opened
    await opened.aclose()
