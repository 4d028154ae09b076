"""Clusters to test with: always the double, and a real one if a kubeconfig is given."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.livecluster import LiveCluster

KUBECONFIG = os.environ.get("ONEPROTECT_TEST_KUBECONFIG", "")
CLUSTERS = ["double", "real"] if KUBECONFIG else ["double"]


@asynccontextmanager
async def opened_cluster(which: str, directory: Path) -> AsyncGenerator[LiveCluster]:
    """A namespace of our own there."""
    if which == "real":
        async with LiveCluster.opened(Path(KUBECONFIG)) as cluster:
            yield cluster
        return
    async with ApiServer.running(directory / "apiserver") as server:
        document = kubeconfig(server.url, server.authority.ca_file.read_bytes(), {"token": "token-of-admin"})
        async with LiveCluster.opened(written(directory / "admin.kubeconfig", document)) as cluster:
            yield cluster
