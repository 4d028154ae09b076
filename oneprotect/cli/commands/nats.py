"""`oneprotect apply` and `oneprotect nats`: streams, and files, users and keys for operators of NATS servers."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from oneprotect.cli.support.context import load_settings, run_connected
from oneprotect.cli.support.errors import DONE, FAILED, BadUsage, CliError
from oneprotect.cli.support.options import AsJson, command_group, examples
from oneprotect.cli.support.output import print_notice, write_json, write_line, write_result, write_table

if TYPE_CHECKING:
    from messaging.admin.permissions import NatsRole
    from messaging.admin.topology import TopologyChange


class RoleName(StrEnum):
    """Roles of NATS users."""

    API = "api"
    CONSUMER = "consumer"
    OPERATOR = "operator"
    PRODUCER = "producer"


app = command_group("Generate files, users and keys for NATS servers.")

_PUBLIC_KEY_LENGTH: Final = 56


def apply(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing, and exit with code 1 if anything differs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create or update the streams, consumers and buckets that this version needs.

    It is safe to run at any time, and changes only what differs. Run it before you upgrade consumers and the API.
    """
    from messaging.admin import topology
    from oneprotect.bootstrap.resources import archive_limits

    settings = load_settings()
    changes = run_connected(
        lambda jetstream: topology.apply(
            jetstream.connection,
            replicas=settings.nats.replicas,
            work_per_destination=settings.nats.work_per_destination,
            ack_wait_s=settings.delivery.ack_wait_s,
            archive=archive_limits(settings),
            check=check,
        ),
        settings,
    )
    different = sum(change.action != "none" for change in changes)
    if as_json:
        write_json({"check": check, "differ": different, "changes": changes})
    else:
        _show(changes, different, check=check)
    raise typer.Exit(FAILED if check and different else DONE)


def _show(changes: "list[TopologyChange]", different: int, *, check: bool) -> None:
    rows = [
        (change.kind, change.name, change.action, _format_fields(change.fields))
        for change in changes
        if change.action != "none"
    ]
    write_table(("kind", "name", "action", "fields"), rows, empty="Everything is up to date.")
    for change in changes:
        if change.note:
            write_line(f"{change.name}: {change.note}")
    if different:
        write_line(f"{different} of {len(changes)} " + ("differ; nothing was changed." if check else "changed."))


def _format_fields(fields: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name}: {_format(old)} → {_format(new)}" for name, (old, new) in fields.items())


def _format(value: object) -> str:
    return "none" if value is None else str(value)


@app.command(epilog=examples("oneprotect nats files --output deploy/nats"))
def files(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Output directory. Created if missing.")],
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=1, max=5, help="Copies of each stream.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Write files for the operators of NATS servers.

    They contain permissions, streams, consumers, and values for the NATS chart. Use them for servers that are
    configured by hand or in Kubernetes. `oneprotect apply` needs none of them.
    """
    from messaging.admin.manifests import documents
    from oneprotect.settings.settings import Settings

    defaults = Settings()
    generated = documents(
        replicas=replicas,
        work_per_destination=defaults.nats.work_per_destination,
        ack_wait_s=defaults.delivery.ack_wait_s,
    )
    paths = [str(output / name) for name in generated]
    try:
        for name, text in generated.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = type(error).__name__
    else:
        write_result({"files": paths}, "\n".join(paths), as_json=as_json)
        return
    raise CliError(f"--output: the directory is not writable ({problem}); choose another one")


@app.command(epilog=examples("oneprotect nats key --output consumer.nk"))
def key(
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="File for the seed. An existing file is an error.")
    ],
    as_json: AsJson = False,
) -> None:
    """Create the key of a NATS user.

    The seed goes to a file with mode 0600, the public key to stdout. Add the public key to the server's configuration.
    Give the file to the process, as ONEPROTECT_NATS_NKEY_FILE.
    """
    public_key = _create_key(output)
    write_result({"public_key": public_key, "file": str(output)}, public_key, as_json=as_json)


@app.command(
    epilog=examples(
        "oneprotect nats user producer --tenant acme --nkey UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        "oneprotect nats user consumer --nkey UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 --json",
    )
)
def user(
    role: Annotated[RoleName, typer.Argument(metavar="ROLE", help="api, consumer, operator or producer.")],
    *,
    nkey: Annotated[
        str, typer.Option("--nkey", metavar="KEY", help="Public key of the user: U and 55 further characters.")
    ],
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Tenant of a producer. Required for that role only."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's entry for the server's configuration.

    The entry has the user's key and permissions. A notice on stderr gives the inbox prefix of the role. Set
    ONEPROTECT_NATS_INBOX_PREFIX to it.
    """
    from messaging.admin.manifests import user_entry

    found = _find_role(role, tenant)
    if not _is_public_key(nkey):
        raise BadUsage("--nkey: expected a public key, U and 55 further characters; never pass the seed (SU...)")
    if as_json:
        allowed = {"publish": {"allow": found.publish}, "subscribe": {"allow": found.subscribe}}
        write_json({"user": {"nkey": nkey, "permissions": allowed}, "inbox_prefix": found.inbox_prefix})
        return
    write_line(user_entry(found, nkey).rstrip())
    print_notice(f"inbox prefix: {found.inbox_prefix}")


def _find_role(name: RoleName, tenant: str | None) -> "NatsRole":
    from messaging.admin.permissions import ROLES, producer
    from schemas import validation

    if name is RoleName.PRODUCER:
        if tenant is None:
            raise BadUsage("--tenant: required for the role producer")
        return producer(validation.name(tenant, "--tenant"))
    if tenant is not None:
        raise BadUsage("--tenant: only the role producer has a tenant; omit the option")
    return next(role for role in ROLES if role.name == name.value)


def _is_public_key(text: str) -> bool:
    return (
        len(text) == _PUBLIC_KEY_LENGTH
        and text.startswith("U")
        and text.isascii()
        and text.isalnum()
        and text.isupper()
    )


def _create_key(output: Path) -> str:
    from messaging.admin.nkeys import write_key

    try:
        return write_key(output)
    except FileExistsError:
        problem = "the file exists, and keys are never overwritten"
    except OSError as error:
        problem = f"the file is not writable ({type(error).__name__})"
    raise CliError(f"--output: {problem}; choose another file")
