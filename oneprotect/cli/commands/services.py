"""`oneprotect api`, `oneprotect consumer` and `oneprotect dev`: processes that run until SIGTERM."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from oneprotect.cli.support.context import run_async
from oneprotect.cli.support.errors import FAILED, CliError
from oneprotect.cli.support.options import AsJson

if TYPE_CHECKING:
    from oneprotect.settings.settings import Settings
    from oneprotect.supervisor.supervisor import Supervisor

MAX_PROCESSES: Final = 256
READINESS_INTERVAL_S: Final = 1.0


def api(*, as_json: AsJson = False) -> None:
    """Serve the HTTP API and the console on ONEPROTECT_API_HOST and ONEPROTECT_API_PORT, until SIGTERM.

    On SIGTERM the API accepts no more requests, finishes those in progress, and exits with code 0. It serves plain
    HTTP: terminate TLS in front of it. It reads no Secret and needs no secret provider.

    Create tokens for clients with `oneprotect token create`. The log goes to stderr, with --json as JSON regardless
    of ONEPROTECT_LOG_FORMAT.
    """
    from oneprotect.bootstrap.api import run_api
    from oneprotect.bootstrap.process import read_export, stop_on_signals
    from oneprotect.bootstrap.watchdog import watch_event_loop

    settings = _start(as_json=as_json)
    export = read_export(os.environ)

    async def main() -> None:
        async with watch_event_loop(settings.delivery.stall_timeout_s):
            await run_api(settings, stop=stop_on_signals(), export=export)

    run_async(main())


def consumer(
    *,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            metavar="N",
            min=1,
            max=16_384,
            help="Concurrent attempts per process. Default: ONEPROTECT_MAX_IN_FLIGHT.",
        ),
    ] = None,
    processes: Annotated[
        str,
        typer.Option(
            "--processes",
            metavar="N|auto",
            help="Number of consumer processes, 1 to 256; auto: one per core. Default: one, without a supervisor.",
        ),
    ] = "",
    report_to: Annotated[int | None, typer.Option("--report-to", hidden=True)] = None,
    isolated: Annotated[int | None, typer.Option("--isolated", hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Receive delivery requests from NATS, sign them, send them and store the results, until SIGTERM.

    On SIGTERM a consumer receives no more requests, finishes attempts in flight, returns the rest to NATS, and exits
    with code 0. The log goes to stderr, with --json as JSON regardless of ONEPROTECT_LOG_FORMAT.

    With --processes, a supervisor runs several consumers. It restarts a consumer that ends, stops all of them on
    SIGTERM, and serves their combined metrics on ONEPROTECT_OPS_PORT.
    """
    settings = _start(resolves_secrets=True, as_json=as_json)
    if max_in_flight is not None:
        delivery = msgspec.structs.replace(settings.delivery, max_in_flight=max_in_flight)
        settings = msgspec.structs.replace(settings, delivery=delivery)
    if processes:
        arguments = ["--json"] if as_json else []
        if max_in_flight is not None:
            arguments += ["--max-in-flight", str(max_in_flight)]
        if not asyncio.run(_supervise(settings, _parse_processes(processes), arguments)):
            raise typer.Exit(FAILED)
        return

    from oneprotect.bootstrap.consumer import run_consumer, run_isolated
    from oneprotect.bootstrap.process import read_export, stop_on_signals
    from oneprotect.bootstrap.watchdog import watch_event_loop

    export = read_export(os.environ)
    link = None if report_to is None else socket.socket(fileno=report_to)

    async def main() -> None:
        async with watch_event_loop(settings.delivery.stall_timeout_s):
            if isolated is not None:
                await run_isolated(settings, link=socket.socket(fileno=isolated))
            else:
                await run_consumer(settings, stop=stop_on_signals(), export=export, link=link)

    run_async(main())


def dev(
    *,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Send 100 deliveries, print their attempts, and exit with code 0 if all are right."
        ),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Directory for streams and secrets. Default: .oneprotect/dev."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a complete installation on this machine, until Ctrl-C.

    Starts nats-server, the API with its console, a consumer, and a receiver that verifies signatures, and creates a
    sample tenant. All of them listen on loopback only. With --demo, data is kept in a temporary directory.
    """
    from rich.console import Console

    from telemetry.log_config import configure_logging

    configure_logging(level="warning", format="json" if as_json else "console")
    if find_spec("standardwebhooks") is None:
        raise CliError("packages for development are missing; run `pip install 'oneprotect-delivery[dev]'`")
    console = Console(highlight=False)
    if demo:
        from oneprotect.cli.local.demo import run_demo

        raise typer.Exit(run_async(run_demo(console=console, as_json=as_json)))
    from oneprotect.cli.local.run import DEFAULT_DIRECTORY, run_dev

    raise typer.Exit(run_async(run_dev(data_dir or DEFAULT_DIRECTORY, console=console, as_json=as_json)))


def _start(*, resolves_secrets: bool = False, as_json: bool) -> "Settings":
    """Load the settings, configure the log, and protect the memory of this process."""
    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.settings.settings import Settings
    from telemetry.log_config import configure_logging

    settings = Settings.load(os.environ, resolves_secrets=resolves_secrets)
    configure_logging(level=settings.log.level, format="json" if as_json else settings.log.format)
    harden_process()
    return settings


def _parse_processes(text: str) -> int:
    from oneprotect.supervisor.supervisor import available_cores

    if text == "auto":
        return available_cores()
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PROCESSES:
        return int(text)
    raise typer.BadParameter(f"expected a number from 1 to {MAX_PROCESSES}, or `auto` for one process per core")


async def _supervise(settings: "Settings", count: int, arguments: list[str]) -> bool:
    """Run `count` consumers until SIGTERM. Returns whether all of them ended cleanly."""
    from oneprotect.bootstrap.process import stop_on_signals
    from oneprotect.supervisor.supervisor import Supervisor

    stop = stop_on_signals()
    command = [sys.executable, "-m", "oneprotect", "consumer", *arguments, "--report-to"]
    environ = {name: value for name, value in os.environ.items() if name != "ONEPROTECT_OPS_PORT"}
    supervisor = Supervisor(command, environ, count=count, drain_timeout_s=settings.delivery.drain_timeout_s)
    if settings.ops.port is None:
        return await supervisor.run(stop)
    async with _serve_operations(settings.ops.host, settings.ops.port, supervisor, stop):
        return await supervisor.run(stop)


@contextlib.asynccontextmanager
async def _serve_operations(
    host: str, port: int, supervisor: "Supervisor", stop: asyncio.Event
) -> AsyncGenerator[None]:
    """Serve the operations port for all consumers. Raises `SettingsError` when the port is taken."""
    from messaging.periodic import pause
    from oneprotect.bootstrap.process import bind_port
    from telemetry.ops_server import OpsPages, serving
    from telemetry.readiness import ReadinessState

    readiness = ReadinessState()
    readiness.add_check("no consumer process is ready", supervisor.is_working)

    async def update_readiness() -> None:
        readiness.check()
        while not await pause(READINESS_INTERVAL_S, stop):
            readiness.check()
        readiness.drain()

    async with bind_port("ONEPROTECT_OPS", serving(OpsPages(supervisor, readiness), host=host, port=port)):
        updating = asyncio.create_task(update_readiness())
        try:
            yield
        finally:
            updating.cancel()
