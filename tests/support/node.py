"""A receiver with an independent HTTP implementation: the HTTP server of Node, as a child process."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import playwright
from msgspec import Struct

SCRIPT: Final = Path(__file__).with_name("node_receiver.js")
_START_TIMEOUT_S: Final = 30.0


class NodeReceiver(Struct, frozen=True):
    """The ports and paths of a Node receiver."""

    plain: int
    secured: int
    brief: int
    """Port of a plain HTTP server that closes each connection half a second after its response."""
    paths: list[str]


def node() -> str:
    """Return the Node binary of Playwright. Raises `FileNotFoundError` with the command that installs it."""
    path = os.environ.get("PLAYWRIGHT_NODEJS_PATH") or str(Path(playwright.__file__).parent / "driver" / "node")
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(
            "no Node at where playwright keeps its own: run `make setup` again, or set PLAYWRIGHT_NODEJS_PATH"
        )
    return path


@asynccontextmanager
async def node_receiver(certificate: Path, key: Path) -> AsyncGenerator[NodeReceiver]:
    """Run the receiver on free ports of the loopback interface; it ends with this process at the latest."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(node(), SCRIPT, certificate, key, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            receiver = msgspec.json.decode(await process.stdout.readline(), type=NodeReceiver)
        yield receiver
    finally:
        process.stdin.close()
        await process.wait()
