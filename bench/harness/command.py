"""Shared frame of the commands that measure one thing: arguments, directory, errors, and JSON results."""

import asyncio
import signal
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from subprocess import SubprocessError
from typing import TypeVar

import msgspec
import psutil
import uvloop

from bench.harness.errors import BenchError
from messaging.client.errors import JetStreamError
from oneprotect.dev.nats_server import EmbeddedNatsError

T = TypeVar("T")


def run(
    name: str,
    description: str | None,
    options: Callable[[ArgumentParser], None],
    measure: Callable[[Namespace, Path], Awaitable[T]],
    tell: Callable[[T], Sequence[str] | None],
) -> int:
    """Measure in a temporary directory, print the result with `tell`, write it to `--json`, and return the exit code.

    When `tell` returns missed goals, the figures are written nevertheless, and the exit code is 1.
    """
    parser = ArgumentParser(prog=f"python -m {name}", description=description)
    options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()

    async def measured() -> T:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
            return await measure(arguments, Path(directory))

    try:
        found = uvloop.run(measured())
    except (BenchError, EmbeddedNatsError, JetStreamError, psutil.Error, OSError, SubprocessError) as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench stopped", file=sys.stderr)
        return 1
    write_json(arguments.json, found)
    complaints = tell(found) or ()
    for complaint in complaints:
        print(f"not as wanted: {complaint}", file=sys.stderr)
    return int(bool(complaints))


def write_json(path: Path | None, found: object) -> None:
    """Write the result to `path` unless it is None."""
    if path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
