"""Targets of the search outside the process: messages, files, monitoring pages, and /proc."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from messaging.client.connection import IncomingMessage
from oneprotect.dev.nats_server import EmbeddedNats
from tests.leak.support.sinks import Sinks
from tests.support.site import Site

CONFIGURATION: Final = ("NATS _INBOX", "NATS $KV", "NATS oneprotect.kv", "file KV_", "command destination ")
"""Sinks that may hold the URLs of destinations and the refs of credentials."""

PAGES: Final = (
    "varz",
    "connz?subs=1&auth=1",
    "subsz?subs=1",
    "jsz?streams=1&consumers=1&config=1",
    "accountz",
    "leafz",
)

_PEEK = """
import ctypes, struct, sys
empty = ctypes.create_string_buffer(24)
assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), empty) == 0
try:
    print("open" if open(f"/proc/{sys.argv[1]}/environ", "rb").read() else "gone")
except PermissionError:
    print("closed")
"""


async def overhear(site: Site, sinks: Sinks) -> None:
    """Record every message on every subject from now on."""

    async def hear(incoming: IncomingMessage) -> None:
        contents = (incoming.subject, incoming.reply, repr(incoming.headers), incoming.data)
        sinks.hear(f"NATS {_family(incoming.subject)}", *contents)

    await site.jetstream.connection.subscribe(">", hear)
    await site.jetstream.connection.flush()


def _family(subject: str) -> str:
    """Return the leading tokens of a subject, which name its use."""
    tokens = subject.split(".")
    return ".".join(tokens[: {"oneprotect": 3, "$KV": 2, "$JS": 3}.get(tokens[0], 1)])


def store(site: Site) -> Mapping[str, bytes]:
    """Return the files of nats-server: contents by stream, and other files by name."""
    found: defaultdict[str, bytes] = defaultdict(bytes)
    root = site.directory / "nats"
    for path in sorted(one for one in root.rglob("*") if one.is_file()):
        parts = path.relative_to(root).parts
        name = parts[parts.index("streams") + 1] if "streams" in parts else path.name
        found[f"file {name}"] += path.read_bytes() + b"\n"
    return found


def files(directory: Path) -> bytes:
    """Return names and contents of all files below a directory."""
    return b"\n".join(str(path).encode() + path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def monitoring(server: EmbeddedNats) -> Mapping[str, bytes]:
    """Return the monitoring pages of the server, which need no password."""
    found: dict[str, bytes] = {}
    async with aiohttp.ClientSession() as session:
        for page in PAGES:
            async with session.get(f"{server.monitor_url}/{page}") as answer:
                found[f"monitoring {page.partition('?')[0]}"] = await answer.read()
    return found


def kernel(pid: int, name: str) -> Mapping[str, bytes]:
    """Return the command line and the start environment of a process, from /proc."""
    return {f"{file} of {name}": Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ")}


def core_limit(pid: int) -> list[str]:
    """Return the soft and the hard limit of core dumps."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


async def peek(pid: int) -> str:
    """Return `open` if an unprivileged process of the same user can read the environment, else `closed`.

    The kernel makes the same check for memory and for debuggers.
    """
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", _PEEK, str(pid), stdout=asyncio.subprocess.PIPE)
    output, _ = await run.communicate()
    return output.decode().strip()
