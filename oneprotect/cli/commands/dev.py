"""`oneprotect dev`: everything at once, for a developer."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson


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
    from telemetry.log_config import configure_logging

    configure_logging(level="warning", format="json" if as_json else "console")
    raise typer.Exit(_run(data_dir, demo=demo, as_json=as_json))


def _run(data_dir: Path | None, *, demo: bool, as_json: bool) -> int:
    from rich.console import Console

    from oneprotect.cli.support.context import run

    if find_spec("standardwebhooks") is None:
        raise CliError("this needs what `pip install 'oneprotect-delivery[dev]'` adds")
    console = Console(highlight=False)
    if demo:
        from oneprotect.cli.local import demo as demonstration

        return run(demonstration.run(console=console, as_json=as_json))
    from oneprotect.cli.local import run as development

    return run(development.run(data_dir or development.DEFAULT_DIRECTORY, console=console, as_json=as_json))
