"""A consumer is light: it imports what it uses, and what it uses not until then."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.jetstream.client import Access
from oneprotect.jetstream.connection import connect
from tests.support.site import Site
from tests.support.waiting import until

HEAVY = {
    "aiohttp",
    "cryptography",
    "jinja2",
    "kubernetes_asyncio",
    "litestar",
    "opentelemetry",
    "requests",
    "uvicorn",
    "yaml",
}
MOST_MODULES = 560
MOST_MEMORY_BYTES = 80_000_000


def test_a_consumers_parts_bring_no_heavy_library() -> None:
    """Importing all that a consumer is made of loads no library that only others use, and few modules in all."""
    code = (
        "import sys, uvloop, oneprotect.wiring.consumer;"
        "print(len(sys.modules), *{m.partition('.')[0] for m in sys.modules})"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()

    assert HEAVY.isdisjoint(printed[1:])
    assert {"nats", "httptools", "uvloop"} <= set(printed[1:]), "the pipe is alive"
    assert int(printed[0]) < MOST_MODULES


async def test_an_idle_consumer_takes_little_memory(site: Site) -> None:
    """With the local provider and nothing to do, a consumer stays below 80 MB."""
    async with site.consumer_process() as consumer:
        await until(lambda: consumer.says("consumer.started"), 60)
        resident = psutil.Process(consumer.process.pid).memory_info().rss

    assert 10_000_000 < resident < MOST_MEMORY_BYTES


@pytest.mark.filterwarnings("ignore:.*ws_close.*:DeprecationWarning")  # how the client library calls aiohttp
async def test_websockets_to_nats_still_work(tmp_path: Path) -> None:
    """What was left out for all others is there for who connects by a WebSocket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"

    class WithWebSockets(EmbeddedNats):
        def _write_config(self, port: int) -> Path:
            path = super()._write_config(port)
            path.write_text(f"{path.read_text()}\nwebsocket {{ listen: {at}, no_tls: true }}\n")
            return path

    access = Access(url=f"ws://{at}")
    async with WithWebSockets(tmp_path), connect(access, name="test") as connection:
        assert connection.is_connected
