"""`oneprotect dev`: everything at once, for a developer."""

from pathlib import Path
from typing import Annotated

import typer

from oneprotect.cli.failure import Failure
from oneprotect.cli.options import AsJson


def dev(
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Send real deliveries, show them, and exit with 0 when all were right.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Where to keep it all; without it, .oneprotect/dev."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine: nats-server, a consumer, a receiver that verifies, and a sample tenant.

    It listens on loopback only, and stops with Ctrl-C.
    """
    from oneprotect.telemetry.logs import configure_logging

    configure_logging(level="warning", format="json" if as_json else "console")
    raise typer.Exit(_run(data_dir, demo=demo, as_json=as_json))


def _run(data_dir: Path | None, *, demo: bool, as_json: bool) -> int:
    from oneprotect.cli.output import console
    from oneprotect.cli.session import run

    try:
        from oneprotect.cli import demo as demonstration
        from oneprotect.cli import dev as development
    except ModuleNotFoundError:
        missing = True
    else:
        if demo:
            return run(demonstration.run(console=console(), as_json=as_json))
        directory = data_dir or development.DEFAULT_DIRECTORY
        return run(development.run(directory, console=console(), as_json=as_json))
    assert missing
    raise Failure("this needs what `pip install 'oneprotect-delivery[dev]'` adds")
