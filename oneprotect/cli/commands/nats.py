"""`oneprotect nats`: what whoever runs the NATS servers needs from this version, and keys for its users."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, examples

if TYPE_CHECKING:
    from messaging.admin.permissions import NatsRole


class RoleName(StrEnum):
    """The roles that a NATS user may have."""

    API = "api"
    CONSUMER = "consumer"
    OPERATOR = "operator"
    PRODUCER = "producer"


app = typer.Typer(
    help="Files, users and keys for the NATS servers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PUBLIC_LENGTH: Final = 56


@app.callback()
def root() -> None:
    """Files, users and keys for the NATS servers."""


@app.command(epilog=examples("oneprotect nats files --output deploy/nats"))
def files(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The directory; made if need be.")],
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=5, help="Copies of each stream.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Write permissions, streams, consumers and values for the NATS chart, as this version needs them.

    For servers that are set up by hand or by Kubernetes; `oneprotect apply` creates the streams without any of them.
    """
    from messaging.admin.manifests import documents
    from oneprotect.cli.support.output import write_json, write_line
    from oneprotect.settings.settings import Settings

    defaults = Settings()
    made = documents(
        replicas=replicas,
        work_per_destination=defaults.nats.work_per_destination,
        ack_wait_s=defaults.delivery.ack_wait_s,
    )
    paths = [str(output / name) for name in made]
    try:
        for name, text in made.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = type(error).__name__
    else:
        if as_json:
            write_json({"files": paths})
        else:
            write_line("\n".join(paths))
        return
    raise CliError(f"--output: can't be written to ({problem}); choose another directory")


@app.command(epilog=examples("oneprotect nats key --output consumer.nk"))
def key(
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The seed goes here; must not be there yet.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a NATS user's key: the seed into a file that only you can read, the public key onto the terminal.

    The public key goes into the server's configuration, the file to whoever has the role (ONEPROTECT_NATS_NKEY_FILE).
    """
    from oneprotect.cli.support.output import write_json, write_line

    public = _make_key(output)
    if as_json:
        write_json({"public_key": public, "file": str(output)})
    else:
        write_line(public)


@app.command(
    epilog=examples(
        "oneprotect nats user producer --tenant acme --nkey UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        "oneprotect nats user consumer --nkey UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 --json",
    )
)
def user(
    role: Annotated[RoleName, typer.Argument(metavar="ROLE", help="api, consumer, operator or producer.")],
    *,
    nkey: Annotated[str, typer.Option("--nkey", metavar="PUBLIC", help="The user's public key, U and 55 more.")],
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="A producer's tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's entry for the list of users in the server's configuration: its key, and what it may do.

    Beside it: the inbox prefix that its programs have to use, as they may hear answers nowhere else.
    """
    from messaging.admin.manifests import user_entry
    from oneprotect.cli.support.output import print_notice, write_json, write_line

    found = _role(role, tenant)
    if not _is_public(nkey):
        raise BadUsage("--nkey: a user's public key is U and 55 characters more; never give the seed here (SU...)")
    if as_json:
        allowed = {"publish": {"allow": found.publish}, "subscribe": {"allow": found.subscribe}}
        write_json({"user": {"nkey": nkey, "permissions": allowed}, "inbox_prefix": found.inbox_prefix})
        return
    write_line(user_entry(found, nkey).rstrip())
    print_notice(f"inbox prefix: {found.inbox_prefix}")


def _role(name: RoleName, tenant: str | None) -> "NatsRole":
    from messaging.admin.permissions import ROLES, producer
    from schemas import validation

    if name is RoleName.PRODUCER:
        if tenant is None:
            raise BadUsage("--tenant: say whose requests the producer may publish")
        return producer(validation.name(tenant, "--tenant"))
    if tenant is not None:
        raise BadUsage("--tenant: only a producer has one; this role is for all tenants")
    return next(role for role in ROLES if role.name == name.value)


def _is_public(nkey: str) -> bool:
    return len(nkey) == _PUBLIC_LENGTH and nkey.startswith("U") and nkey.isascii() and nkey.isalnum() and nkey.isupper()


def _make_key(output: Path) -> str:
    from messaging.admin.nkeys import write_key

    try:
        return write_key(output)
    except FileExistsError:
        problem = "the file is there already; a key is never written over"
    except OSError as error:
        problem = f"can't be written to ({type(error).__name__})"
    raise CliError(f"--output: {problem}; choose another file")
