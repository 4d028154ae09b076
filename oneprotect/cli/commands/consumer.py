"""`oneprotect consumer`: the deployment that delivers."""

import os
import socket
from typing import Annotated

import typer

from oneprotect.cli.support.options import AsJson


def consumer(
    *,
    max_in_flight: Annotated[
        int | None,
        typer.Option("--max-in-flight", min=1, max=16_384, help="Attempts at a time; over ONEPROTECT_MAX_IN_FLIGHT."),
    ] = None,
    processes: Annotated[
        str,
        typer.Option(
            "--processes", metavar="NUMBER|auto", help="Consumers on this machine; `auto`: one for each core."
        ),
    ] = "",
    report_to: Annotated[int | None, typer.Option("--report-to", hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Take delivery requests from NATS, sign, send, and record how it went, until SIGTERM.

    On SIGTERM it stops taking requests, finishes what is in flight, hands back the rest, and exits with 0. What it
    does is told on stderr, by its log; with --json as JSON whatever ONEPROTECT_LOG_FORMAT says.

    With --processes, so many of them run under one supervisor, each with its own attempts in flight: one that dies is
    started again, SIGTERM ends all of them, and ONEPROTECT_OPS_PORT shows the figures of all as one.
    """
    import msgspec

    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.cli.commands.consumer_processes import parse_processes, run_supervised
    from oneprotect.settings.settings import Settings
    from telemetry.log_config import configure_logging

    settings = Settings.load(os.environ, resolves_secrets=True)
    if max_in_flight is not None:
        delivery = msgspec.structs.replace(settings.delivery, max_in_flight=max_in_flight)
        settings = msgspec.structs.replace(settings, delivery=delivery)
    configure_logging(level=settings.log.level, format="json" if as_json else settings.log.format)
    harden_process()
    if processes:
        count = parse_processes(processes)
        run_supervised(settings, count=count, arguments=_arguments(max_in_flight, as_json=as_json))
        return

    import uvloop

    from oneprotect.bootstrap.consumer import run_consumer
    from oneprotect.bootstrap.process import read_export, stop_on_signals

    export = read_export(os.environ)
    link = None if report_to is None else socket.socket(fileno=report_to)

    async def main() -> None:
        await run_consumer(settings, stop=stop_on_signals(), export=export, link=link)

    uvloop.run(main())


def _arguments(max_in_flight: int | None, *, as_json: bool) -> list[str]:
    """What each of several consumers is started with."""
    arguments = ["--json"] if as_json else []
    return arguments if max_in_flight is None else [*arguments, "--max-in-flight", str(max_in_flight)]
