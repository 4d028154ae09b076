"""Root of the command line: commands in sections, the version, and the conversion of every error to one line."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from oneprotect.cli.commands.attempts import attempts
from oneprotect.cli.commands.credential import app as credential
from oneprotect.cli.commands.deliver import deliver
from oneprotect.cli.commands.destination import app as destination
from oneprotect.cli.commands.doctor import doctor
from oneprotect.cli.commands.failed import app as failed
from oneprotect.cli.commands.nats import app as nats
from oneprotect.cli.commands.nats import apply
from oneprotect.cli.commands.quarantine import app as quarantine
from oneprotect.cli.commands.recover import recover
from oneprotect.cli.commands.replay import replay, retry
from oneprotect.cli.commands.schemas import schemas
from oneprotect.cli.commands.secret import app as secret
from oneprotect.cli.commands.services import api, consumer, dev
from oneprotect.cli.commands.tenant import app as tenant
from oneprotect.cli.commands.token import app as token
from oneprotect.cli.commands.verify import verify
from oneprotect.cli.support.errors import DONE, USAGE, print_error, to_cli_error
from oneprotect.cli.support.options import examples

_FIRST_COMMANDS: Final = """\
\b
First commands to try:
  oneprotect dev --demo   Send sample deliveries through a complete local installation.
  oneprotect dev          Keep that installation running, with an API and a console.
  oneprotect doctor       Check an installation, and print a fix for each problem.

\b
Every command has --help, with examples."""


_RUN, _DELIVERIES, _CONFIGURATION, _TOOLS = SECTIONS = ("Run", "Deliveries", "Configuration", "Tools")


class SectionedGroup(TyperGroup):
    """A group that lists its commands in sections."""

    def format_commands(self, ctx: object, formatter: Any) -> None:  # noqa: ANN401, ARG002 - typer's signature
        """Write one list of commands per section."""
        width = formatter.width - 6 - max(len(name) for name in self.commands)
        for section in SECTIONS:
            rows = [
                (name, command.get_short_help_str(width))
                for name, command in self.commands.items()
                if getattr(command, "rich_help_panel", None) == section
            ]
            with formatter.section(section):
                formatter.write_dl(rows)


app = typer.Typer(
    name="oneprotect",
    cls=SectionedGroup,
    help="Deliver signed webhooks, on NATS JetStream and Kubernetes.",
    epilog=_FIRST_COMMANDS,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED: Final = 130
"""Exit code of typer after Ctrl-C."""


def run(arguments: Sequence[str]) -> int:
    """Run a command. Returns its exit code: 0 done, 1 failed, 2 invalid usage or settings."""
    try:
        return _invoke(list(arguments))
    except (Exception, KeyboardInterrupt) as caught:  # noqa: BLE001 - the edge: no traceback reaches a user
        error = to_cli_error(caught)
        _log_traceback(caught)
    print_error(error, as_json="--json" in arguments)
    return error.exit_code


def _invoke(arguments: list[str]) -> int:
    try:
        code: object = app(arguments, prog_name="oneprotect", standalone_mode=False)
    except typer.TyperException as error:
        if type(error).__name__ != "NoArgsIsHelpError" or "--json" in arguments:
            raise
        sys.stderr.write(error.format_message() + "\n")
        return USAGE
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else DONE


def _log_traceback(error: BaseException) -> None:
    """Log the exception types and source lines with level debug. Messages are omitted: they may hold secrets."""
    if os.environ.get("ONEPROTECT_LOG_LEVEL", "").lower() == "debug":
        import structlog

        from telemetry.log_config import configure_logging

        configure_logging(level="debug", format="console")
        structlog.get_logger(__name__).debug("cli.failed", exc_info=error)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"oneprotect {version('oneprotect-delivery')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deliver signed webhooks, on NATS JetStream and Kubernetes."""


def _add(section: str, command: Callable[..., None], summary: str, *example_lines: str) -> None:
    app.command(short_help=summary, rich_help_panel=section, epilog=examples(*example_lines))(command)


def _add_group(section: str, group: typer.Typer, name: str, summary: str) -> None:
    app.add_typer(group, name=name, short_help=summary, rich_help_panel=section)


_add(_RUN, dev, "Run a complete local installation.", "oneprotect dev", "oneprotect dev --demo")
_add(_RUN, apply, "Create or update streams, consumers and buckets.", "oneprotect apply --check")
_add(_RUN, consumer, "Run a consumer, which sends the deliveries.", "oneprotect consumer --max-in-flight 512")
_add(_RUN, api, "Run the HTTP API and the console.", "ONEPROTECT_API_HOST=0.0.0.0 oneprotect api")

_add(
    _DELIVERIES,
    deliver,
    "Request a delivery.",
    "oneprotect deliver --tenant acme --destination orders --event-type invoice.paid --data invoice.json",
    """echo '{"total": 42}' | oneprotect deliver --tenant acme --destination orders --event-type test --data -""",
)
_add(
    _DELIVERIES,
    attempts,
    "List or follow attempts and their results.",
    "oneprotect attempts --tenant acme --since 2h --outcome failed",
    "oneprotect attempts --tenant acme --destination orders --follow",
)
_add_group(_DELIVERIES, failed, "failed", "List and show failed deliveries.")
_add(
    _DELIVERIES,
    retry,
    "Start a scheduled retry now.",
    "oneprotect retry --tenant acme --id dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB",
)
_add(
    _DELIVERIES,
    replay,
    "Request failed or delivered deliveries again.",
    "oneprotect replay --tenant acme --destination orders --since 1d --dry-run",
    "oneprotect replay --tenant acme --code http.5xx --rate 50",
    "oneprotect replay --tenant acme --list",
    "oneprotect replay --tenant acme --cancel rpl-01jde3v7q0m8z5t2r4x6y8w0ab",
)
_add_group(_DELIVERIES, quarantine, "quarantine", "List, show and release invalid messages.")

_add_group(_CONFIGURATION, destination, "destination", "Manage the URLs that receive deliveries.")
_add_group(_CONFIGURATION, credential, "credential", "Manage which Secrets sign deliveries.")
_add_group(_CONFIGURATION, secret, "secret", "Check a secret ref, or refresh cached secrets.")
_add_group(_CONFIGURATION, tenant, "tenant", "Show the use of quotas by a tenant, or remove it.")
_add_group(_CONFIGURATION, token, "token", "Manage tokens for the HTTP API.")

_add(
    _TOOLS,
    doctor,
    "Check an installation, and print a fix for each problem.",
    "oneprotect doctor",
    "kubectl exec deploy/CONSUMER -- oneprotect doctor --json",
)
_add(
    _TOOLS,
    verify,
    "Verify the signature of a received request.",
    "oneprotect verify --secret-file secret.txt --headers headers.txt --body body.json",
)
_add(_TOOLS, recover, "Bring back messages that a NATS consumer has lost.", "oneprotect recover --dry-run")
_add_group(_TOOLS, nats, "nats", "Generate files, users and keys for NATS servers.")
_add(_TOOLS, schemas, "Write JSON Schema, AsyncAPI and OpenAPI.", "oneprotect schemas --output schemas/")
