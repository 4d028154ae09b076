"""Parts of every process: version and name, signals, garbage collection, and the operations port."""

import asyncio
import contextlib
import gc
import hashlib
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from oneprotect.settings.settings import Settings, SettingsError
from telemetry.otlp.settings import ExportSettings, OtelError
from telemetry.telemetry import Telemetry

VERSION: Final = version("oneprotect-delivery")


def read_export(environ: Mapping[str, str]) -> ExportSettings:
    """Read the `OTEL_*` variables. Raises `SettingsError`."""
    try:
        return ExportSettings.read(environ)
    except OtelError as error:
        problem = str(error)
    raise SettingsError([problem])


def ops_port(settings: Settings, telemetry: Telemetry) -> AbstractAsyncContextManager[None]:
    """Serve the operations port inside the context. Raises `SettingsError` when the port is taken."""
    return bind_port("ONEPROTECT_OPS", telemetry.listening(host=settings.ops.host, port=settings.ops.port))


@contextlib.asynccontextmanager
async def bind_port(prefix: str, server: AbstractAsyncContextManager[object]) -> AsyncGenerator[None]:
    """Enter `server`. Raises `SettingsError` when it cannot bind the port of the settings `<prefix>_*`."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            problem = describe_bind_error(prefix, error)
        else:
            yield
            return
    raise SettingsError([problem])


def describe_bind_error(prefix: str, error: OSError) -> str:
    """Return the problem of a port that could not be bound."""
    return f"{prefix}_PORT: cannot listen on it at {prefix}_HOST ({error.strerror}); set another port"


def freeze_gc() -> None:
    """Exclude everything created at start from garbage collection, and collect less often.

    Deliveries create few reference cycles, so that frequent collections find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def state_directory(settings: Settings) -> Path:
    """Return the directory for what must survive a process of this installation."""
    installation = hashlib.sha256(settings.nats.url.encode()).hexdigest()[:16]
    if settings.delivery.state_dir is not None:
        return settings.delivery.state_dir / installation
    return Path(tempfile.gettempdir()) / f"oneprotect-{os.getuid()}-{installation}"


def worker_id() -> str:
    """Return a name of this process for results: host, process id and a random part, since pods are re-created."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
