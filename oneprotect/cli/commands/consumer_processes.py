"""`oneprotect consumer --processes`: a supervisor of consumers, and the port where all of them are read as one."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import typer

from oneprotect.settings.settings import Settings, SettingsError

if TYPE_CHECKING:  # imported where they are needed, to start fast
    from oneprotect.supervisor.supervisor import Supervisor
    from telemetry.readiness import ReadinessState

LOOK_S: Final = 1.0


def parse_processes(text: str) -> int:
    """A number of processes, or `auto`. Raises `typer.BadParameter`."""
    from oneprotect.supervisor.supervisor import available_cores

    if text == "auto":
        return available_cores()
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 256:
        return int(text)
    raise typer.BadParameter("a number from 1 to 256, or `auto` for one process for each core")


def run_supervised(settings: Settings, *, count: int, arguments: list[str]) -> None:
    """Supervise `count` consumers until SIGTERM. Raises `typer.Exit` unless all end well."""
    if not asyncio.run(_supervise(settings, count, arguments)):
        raise typer.Exit(1)


async def _supervise(settings: Settings, count: int, arguments: list[str]) -> bool:
    from oneprotect.supervisor.supervisor import Supervisor

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    command = [sys.executable, "-m", "oneprotect", "consumer", *arguments, "--report-to"]
    environ = {name: value for name, value in os.environ.items() if name != "ONEPROTECT_OPS_PORT"}
    supervisor = Supervisor(command, environ, count=count, drain_timeout_s=settings.delivery.drain_timeout_s)
    async with contextlib.AsyncExitStack() as stack:
        if settings.ops.port is not None:
            await stack.enter_async_context(_listening(settings.ops.host, settings.ops.port, supervisor, stop))
        return await supervisor.run(stop)


@contextlib.asynccontextmanager
async def _listening(host: str, port: int, supervisor: "Supervisor", stop: asyncio.Event) -> AsyncGenerator[None]:
    """Serve the operations port for all of them."""
    from telemetry.ops_server import OpsPages, serving
    from telemetry.readiness import ReadinessState

    readiness = ReadinessState()
    readiness.watch(supervisor.is_working)
    looking = asyncio.create_task(_look(readiness, stop))
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(serving(OpsPages(supervisor, readiness), host=host, port=port))
        except OSError as error:
            problem = f"ONEPROTECT_OPS_PORT: can't be had at ONEPROTECT_OPS_HOST ({error.strerror}); set another one"
        else:
            yield
            looking.cancel()
            return
    looking.cancel()
    raise SettingsError([problem])


async def _look(readiness: "ReadinessState", stop: asyncio.Event) -> None:
    """Refresh readiness until `stop` is set."""
    from messaging.periodic import pause

    readiness.look()
    while not await pause(LOOK_S, stop):
        readiness.look()
    readiness.drain()
