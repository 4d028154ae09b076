"""Brokers of the peers: Redis servers of the run, or streams in a nats-server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from bench.harness.child import Child, child
from bench.harness.errors import BenchError
from bench.harness.site import Site
from bench.peers.install import REDIS
from bench.peers.plan import Peer
from messaging.client.connection import NatsConnection

_START_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02
_TO_DISK: Final = {
    True: ("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    False: ("--appendonly", "no", "--save", ""),
}


class Broker(Protocol):
    """Holds a peer's work and results."""

    url: str

    def cpu_s(self) -> float:
        """Seconds of CPU time that it has used so far."""
        ...

    async def empty(self) -> None:
        """Throw away what is in it of the peers."""
        ...

    async def waiting(self, peer: Peer) -> int:
        """Return the number of deliveries that wait for a worker."""
        ...

    async def recorded(self, peer: Peer) -> int:
        """Return the number of results."""
        ...


class Nats:
    """Streams for a peer, on disk as the product's are."""

    _STREAMS: Final = {"PEER_WORK": ("peer.requested.>", "workqueue"), "PEER_RESULTS": ("peer.attempted.>", "limits")}

    def __init__(self, url: str, connection: NatsConnection, cpu_s: Callable[[], float]) -> None:
        self._api = connection.api
        self.url = url
        self.cpu_s = cpu_s

    async def create(self) -> None:
        """Make the streams."""
        for name, (subject, retention) in self._STREAMS.items():
            config = {"name": name, "subjects": [subject], "retention": retention, "storage": "file"}
            await self._api(f"STREAM.CREATE.{name}", config)

    async def empty(self) -> None:
        """Throw away what is in them."""
        for name in self._STREAMS:
            await self._api(f"STREAM.PURGE.{name}", {})

    async def waiting(self, peer: Peer) -> int:  # noqa: ARG002
        """Return the number of deliveries."""
        return await self._messages("PEER_WORK")

    async def recorded(self, peer: Peer) -> int:  # noqa: ARG002
        """Return the number of results."""
        return await self._messages("PEER_RESULTS")

    async def _messages(self, stream: str) -> int:
        info: dict[str, Any] = await self._api(f"STREAM.INFO.{stream}")
        return int(info["state"]["messages"])


class Redis:
    """A Redis, asked by `redis-cli`."""

    def __init__(self, running: Child, port: int) -> None:
        self._port = port
        self.url = f"redis://127.0.0.1:{port}"
        self.cpu_s = running.cpu_s
        self.kill = running.kill

    async def empty(self) -> None:
        """Throw everything away."""
        await self.ask("FLUSHALL", "SYNC")

    async def waiting(self, peer: Peer) -> int:
        """Return the number of deliveries."""
        return int(await self.ask(*peer.waiting))

    async def recorded(self, peer: Peer) -> int:
        """Return the number of results."""
        return int(await self.ask(*peer.counted))

    async def ask(self, *command: str) -> str:
        """Return the reply of `redis-cli`. Raises `BenchError`."""
        process = await asyncio.create_subprocess_exec(
            *("redis-cli", "-p", str(self._port), *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        reply, _ = await process.communicate()
        if process.returncode or reply.startswith((b"ERR", b"LOADING")):
            raise BenchError(f"redis-cli {command[0]}: {reply.decode().strip() or 'no answer'}")
        return reply.decode().strip()


def nats(site: Site) -> Nats:
    """The peers' streams in the server that the product has, too."""
    return Nats(site.nats_url, site.jetstream.connection, site.nats_cpu_s)


@contextlib.asynccontextmanager
async def redis(directory: Path, *, to_disk: bool) -> AsyncGenerator[Redis]:
    """Start one on the loopback, with its files in `directory`. Raises `BenchError`.

    `to_disk`: it writes what it is given to a file before it says so, and syncs that once a second, as its
    documentation recommends. JetStream writes before it says so, too, and syncs every two minutes.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    where = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory))
    log = directory / "redis.log"
    async with child("redis", *where, *_TO_DISK[to_disk], log=log, program=(REDIS,)) as running:
        one = Redis(running, port)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await _answering(one)
        except TimeoutError:
            raise BenchError(f"redis-server has not started{running.log_tail()}") from None
        yield one


async def _answering(one: Redis) -> None:
    while True:
        with contextlib.suppress(BenchError):
            await one.ask("PING")
            return
        await asyncio.sleep(_POLL_S)


def setup(site: Site, payload: bytes) -> bytes:
    """Return the setup of a peer: URL and key (base64) of each destination, their order, and the payload."""
    targets = {address: (target.url, target.key) for address, target in site.targets.items()}
    return msgspec.json.encode({"targets": targets, "addresses": list(targets), "payload": payload.decode()})
