"""`oneprotect consumer`: the deployment that delivers."""

import os
from typing import Annotated

import typer

from oneprotect.cli.options import AsJson


def consumer(
    *,
    max_in_flight: Annotated[
        int | None,
        typer.Option("--max-in-flight", min=1, max=16_384, help="Attempts at a time; over ONEPROTECT_MAX_IN_FLIGHT."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take delivery requests from NATS, sign, send, and record how it went, until SIGTERM.

    On SIGTERM it stops taking requests, finishes what is in flight, hands back the rest, and exits with 0. What it
    does is told on stderr, by its log; with --json as JSON whatever ONEPROTECT_LOG_FORMAT says.
    """
    import msgspec
    import uvloop

    from oneprotect import wiring
    from oneprotect.settings import Settings
    from oneprotect.telemetry.hardening import harden_process
    from oneprotect.telemetry.logs import configure_logging

    settings = Settings.load(os.environ, resolves_secrets=True)
    export = wiring.read_export(os.environ)
    if max_in_flight is not None:
        delivery = msgspec.structs.replace(settings.delivery, max_in_flight=max_in_flight)
        settings = msgspec.structs.replace(settings, delivery=delivery)
    configure_logging(level=settings.log.level, format="json" if as_json else settings.log.format)
    harden_process()

    async def main() -> None:
        await wiring.run_consumer(settings, stop=wiring.stop_on_signals(), export=export)

    uvloop.run(main())
