"""The root of the command line: its commands, its version, and the edge where every error ends as one line."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from oneprotect.cli.commands.api import api
from oneprotect.cli.commands.apply import apply
from oneprotect.cli.commands.attempts import attempts
from oneprotect.cli.commands.consumer import consumer
from oneprotect.cli.commands.credential import app as credential
from oneprotect.cli.commands.deliver import deliver
from oneprotect.cli.commands.destination import app as destination
from oneprotect.cli.commands.dev import dev
from oneprotect.cli.commands.doctor import doctor
from oneprotect.cli.commands.failed import app as failed
from oneprotect.cli.commands.nats import app as nats
from oneprotect.cli.commands.quarantine import app as quarantine
from oneprotect.cli.commands.replay import replay
from oneprotect.cli.commands.retry import retry
from oneprotect.cli.commands.schemas import schemas
from oneprotect.cli.commands.secret import app as secret
from oneprotect.cli.commands.token import app as token
from oneprotect.cli.commands.verify import verify
from oneprotect.cli.support.errors import DONE, USAGE, described, show
from oneprotect.cli.support.options import examples

app = typer.Typer(
    name="oneprotect",
    help="Signed event delivery on NATS JetStream and Kubernetes.",
    epilog=examples("oneprotect dev --demo", "oneprotect deliver --help"),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED: Final = 130
"""What typer makes of Ctrl-C."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 usage or settings."""
    try:
        return _invoke(list(arguments))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge: no traceback reaches a user
        failure = described(error)
        _debug(error)
    show(failure, as_json="--json" in arguments)
    return failure.exit_code


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


def _debug(error: BaseException) -> None:
    """For whoever asked with ONEPROTECT_LOG_LEVEL=debug: types and places, and no texts."""
    if os.environ.get("ONEPROTECT_LOG_LEVEL", "").lower() == "debug":
        import structlog

        from telemetry.log_config import configure_logging

        configure_logging(level="debug", format="console")
        structlog.get_logger(__name__).debug("cli.failed", exc_info=error)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"oneprotect {version('oneprotect-delivery')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Signed event delivery on NATS JetStream and Kubernetes."""


app.command(
    short_help="Run it all on this machine, for a developer.",
    epilog=examples("oneprotect dev", "oneprotect dev --demo"),
)(dev)
app.command(
    short_help="Create or update streams, consumers and buckets.",
    epilog=examples("oneprotect apply --check"),
)(apply)
app.command(
    short_help="Deliver, until SIGTERM.",
    epilog=examples("oneprotect consumer --max-in-flight 512"),
)(consumer)
app.command(
    short_help="Serve the HTTP API, until SIGTERM.",
    epilog=examples("ONEPROTECT_API_HOST=0.0.0.0 oneprotect api"),
)(api)
app.command(
    short_help="Ask for a delivery.",
    epilog=examples(
        "oneprotect deliver --tenant acme --destination orders --event-type invoice.paid --data invoice.json",
        """echo '{"total": 42}' | oneprotect deliver --tenant acme --destination orders --event-type test --data -""",
    ),
)(deliver)
app.command(
    short_help="Show how deliveries went.",
    epilog=examples(
        "oneprotect attempts --tenant acme --since 2h --outcome failed",
        "oneprotect attempts --tenant acme --destination orders --follow",
    ),
)(attempts)
app.command(
    short_help="Request kept deliveries once more.",
    epilog=examples(
        "oneprotect replay --tenant acme --destination orders --since 1d --dry-run",
        "oneprotect replay --tenant acme --code http.5xx --rate 50",
        "oneprotect replay --tenant acme --list",
        "oneprotect replay --tenant acme --cancel rpl-01jde3v7q0m8z5t2r4x6y8w0ab",
    ),
)(replay)
app.command(epilog=examples("oneprotect retry --tenant acme --id dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"))(retry)
app.command(
    short_help="Check a received request's signature.",
    epilog=examples("oneprotect verify --secret-file secret.txt --headers headers.txt --body body.json"),
)(verify)
app.command(
    short_help="Say what is wrong, and how to mend it.",
    epilog=examples("oneprotect doctor", "kubectl exec deploy/CONSUMER -- oneprotect doctor --json"),
)(doctor)
app.command(
    short_help="Write JSON Schema, AsyncAPI and OpenAPI documents.",
    epilog=examples("oneprotect schemas --output schemas/"),
)(schemas)
app.add_typer(failed, name="failed", short_help="What was given up on, and why.")
app.add_typer(quarantine, name="quarantine", short_help="What could not be understood.")
app.add_typer(destination, name="destination", short_help="Where deliveries go.")
app.add_typer(credential, name="credential", short_help="Which Secrets sign them.")
app.add_typer(nats, name="nats", short_help="Files, users and keys for the NATS servers.")
app.add_typer(secret, name="secret", short_help="Try out a secret, or let consumers read it anew.")
app.add_typer(token, name="token", short_help="Who may use the HTTP API.")
