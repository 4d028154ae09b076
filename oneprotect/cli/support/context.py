"""What commands run in: the settings, the log on stderr, and a connection to NATS."""

import getpass
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import uvloop

from oneprotect.bootstrap.resources import JetStream, open_jetstream
from oneprotect.settings.settings import Settings
from telemetry.log_config import configure_logging

T = TypeVar("T")

Work = Callable[[JetStream, Settings], Awaitable[T]]


def load_settings() -> Settings:
    """The settings, with warnings and worse on stderr, or everything at level debug. Raises `SettingsError`."""
    settings = Settings.load(os.environ)
    level = "warning" if settings.log.level == "info" else settings.log.level
    configure_logging(level=level, format=settings.log.format)
    return settings


def connected(work: Work[T], settings: Settings | None = None) -> T:
    """Run `work` with a connection and the settings. Raises `SettingsError` and `JetStreamError`."""
    loaded = settings or load_settings()

    async def main() -> T:
        async with open_jetstream(loaded, name="oneprotect-cli") as jetstream:
            return await work(jetstream, loaded)

    return run(main())


def run(main: Coroutine[object, object, T]) -> T:
    """Run on uvloop, as everything here does."""
    return uvloop.run(main)


def current_user() -> str:
    """Who runs this command, for the audit trail."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"cli:{os.getuid()}"
