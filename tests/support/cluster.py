"""A cluster of three nats-servers; each can be killed. A replica that lags behind its leader."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from messaging.client.connection import NatsConnection
from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas import streams, subjects
from tests.support.site import Site


class Named(Protocol):
    """A server with its name in the cluster."""

    name: str


N = TypeVar("N", bound=Named)


class Node(EmbeddedNats):
    """A member of a cluster."""

    def __init__(self, directory: Path, *, name: str, route_port: int, routes: list[str]) -> None:
        super().__init__(directory)
        self.name = name
        self._cluster = {"name": "test", "listen": f"127.0.0.1:{route_port}", "routes": routes}

    def _config(self, port: int) -> dict[str, Any]:
        return super()._config(port) | {"server_name": self.name, "cluster": self._cluster}


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncGenerator[list[Node]]:
    """Run three nodes, and wait for a leader."""
    ports = free_ports(3)
    routes = [f"nats://127.0.0.1:{port}" for port in ports]
    nodes = [
        Node(directory / f"n{number}", name=f"n{number}", route_port=port, routes=routes)
        for number, port in enumerate(ports)
    ]
    await asyncio.gather(*(node.start() for node in nodes))
    try:
        yield nodes
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))


async def leader_of(connection: NatsConnection, stream: str, nodes: Sequence[N]) -> N | None:
    """Return the node that leads a stream, or None while the stream has no leader."""
    info = await connection.api(f"STREAM.INFO.{stream}")
    name: str | None = info["cluster"].get("leader")
    return next((node for node in nodes if node.name == name), None)


async def lag_behind(site: Site) -> None:
    """Let a mirror that has one message answer a part of the direct gets of results, as a replica that lags does."""
    await site.jetstream.connection.api(
        "STREAM.CREATE.LAGGING",
        {
            "name": "LAGGING",
            "storage": "file",
            "mirror": {"name": streams.ATTEMPTS.name, "filter_subject": "oneprotect.delivery.attempted.nobody.>"},
            "mirror_direct": True,
            "allow_direct": True,
        },
    )
    await site.jetstream.publisher.put(subjects.attempted("nobody", "orders", "dlv_1"), b"0")


def free_ports(count: int) -> list[int]:
    """Return different ports that nothing uses, and that the system lends to no client meanwhile."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
