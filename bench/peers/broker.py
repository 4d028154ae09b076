"""What the peers' work waits in: a Redis of the run's own, or streams of their own in its nats-server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bench.child import Child, child
from bench.errors import BenchError
from bench.peers.install import REDIS
from bench.peers.plan import Peer
from bench.site import Site

_START_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02


class Broker(Protocol):
    """Holds a peer's work and results."""

    url: str

    def cpu_s(self) -> float:
        """Seconds of CPU time that it has used so far."""
        ...

    async def empty(self) -> None:
        """Throw away what is in it of the peers."""
        ...

    async def recorded(self, peer: Peer) -> int:
        """How many results it holds."""
        ...


class Nats:
    """The server that the product has, too."""

    _STREAMS: Final = {"PEER_WORK": ("peer.requested.>", "workqueue"), "PEER_RESULTS": ("peer.attempted.>", "limits")}

    def __init__(self, site: Site) -> None:
        self._site = site
        self._api = site.jetstream.connection.api
        self.url = site.nats_url
        self.cpu_s = site.nats_cpu_s

    async def create(self) -> None:
        """The streams, on disk as the product's are."""
        for name, (subject, retention) in self._STREAMS.items():
            config = {"name": name, "subjects": [subject], "retention": retention, "storage": "file"}
            await self._api(f"STREAM.CREATE.{name}", config)

    async def empty(self) -> None:
        """Throw away what is in them."""
        for name in self._STREAMS:
            await self._api(f"STREAM.PURGE.{name}", {})

    async def recorded(self, peer: Peer) -> int:  # noqa: ARG002
        """How many results there are."""
        return await self._site.messages("PEER_RESULTS")


class Redis:
    """A Redis that writes to disk as it goes, like JetStream, and syncs once a second."""

    def __init__(self, running: Child, port: int) -> None:
        self._port = port
        self.url = f"redis://127.0.0.1:{port}"
        self.cpu_s = running.cpu_s

    async def empty(self) -> None:
        """Throw everything away."""
        await self.ask("FLUSHALL", "SYNC")

    async def recorded(self, peer: Peer) -> int:
        """How many results there are."""
        return int(await self.ask(*peer.counted))

    async def ask(self, *command: str) -> str:
        """The answer of `redis-cli`. Raises `BenchError`."""
        process = await asyncio.create_subprocess_exec(
            *("redis-cli", "-p", str(self._port), *command), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate()
        if process.returncode or told.startswith((b"ERR", b"LOADING")):
            raise BenchError(f"redis-cli {command[0]}: {told.decode().strip() or 'no answer'}")
        return told.decode().strip()


@contextlib.asynccontextmanager
async def redis(directory: Path) -> AsyncGenerator[Redis]:
    """Start one on the loopback, with its files in `directory`. Raises `BenchError`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = f"--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec --dir".split()
    log = directory / "redis.log"
    async with child("redis", *settings, str(directory), "--save", "", log=log, program=(REDIS,)) as running:
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
    """What a peer is told: URL and key (base64) of each destination, their order, and the payload."""
    targets = {address: (target.url, target.key) for address, target in site.targets.items()}
    return msgspec.json.encode({"targets": targets, "addresses": list(targets), "payload": payload.decode()})
