"""Settings, logging and the NATS connection of a command."""

import getpass
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings

T = TypeVar("T")
Work = Callable[["JetStream"], Awaitable[T]]


def load_settings() -> "Settings":
    """Load the settings, and log warnings and errors to stderr, or everything with level debug.

    Raises:
        SettingsError: The settings are invalid.
    """
    from oneprotect.settings.settings import Settings
    from telemetry.log_config import configure_logging

    settings = Settings.load(os.environ)
    level = "warning" if settings.log.level == "info" else settings.log.level
    configure_logging(level=level, format=settings.log.format)
    return settings


def run_connected(work: Work[T], settings: "Settings | None" = None) -> T:
    """Run `work` with a connection to NATS. Raises `SettingsError` and `JetStreamError`."""
    from oneprotect.bootstrap.resources import open_jetstream

    loaded = settings or load_settings()

    async def main() -> T:
        async with open_jetstream(loaded, name="oneprotect-cli") as jetstream:
            return await work(jetstream)

    return run_async(main())


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on uvloop, like the services."""
    import uvloop

    return uvloop.run(main)


def current_user() -> str:
    """Return the user who runs this command, for the audit trail."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"cli:{os.getuid()}"
