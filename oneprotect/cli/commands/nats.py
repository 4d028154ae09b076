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
    PUBLISHER = "publisher"


class DurabilityName(StrEnum):
    """Failures that a stored message survives."""

    FSYNC = "fsync"
    REPLICATED = "replicated"


app = command_group("Generate files, users and keys for NATS servers.")

_PUBLIC_KEY_LENGTH: Final = 56
_TRUST: Final = (
    "warning: all tenants trust this user. The server writes acknowledgements to any reply subject that it chooses. "
    "So the user can replace configuration of any tenant, and its headers can suppress deliveries of others. "
    "For a tenant that is not trusted, use the role producer."
)


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
    from oneprotect.bootstrap.resources import stream_limits

    settings = load_settings()
    changes = run_connected(
        lambda jetstream: topology.apply(
            jetstream.connection,
            replicas=settings.nats.replicas,
            work_per_destination=settings.nats.work_per_destination,
            ack_wait_s=settings.delivery.ack_wait_s,
            limits=stream_limits(settings),
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
    durability: Annotated[
        DurabilityName | None,
        typer.Option(
            "--durability",
            help="fsync: each message is on disk before it is acknowledged. replicated: on two of three servers, and "
            "on disk within a second. Default: replicated with three replicas or more, fsync with fewer.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write files for the operators of NATS servers.

    They contain permissions, streams, consumers, and values for the NATS chart. Use them for servers that are
    configured by hand or in Kubernetes. `oneprotect apply` needs none of them.
    """
    from messaging.admin.manifests import Durability, documents
    from oneprotect.settings.settings import Settings

    defaults = Settings()
    generated = documents(
        replicas=replicas,
        work_per_destination=defaults.nats.work_per_destination,
        ack_wait_s=defaults.delivery.ack_wait_s,
        durability=Durability(durability) if durability else None,
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
    role: Annotated[RoleName, typer.Argument(metavar="ROLE", help="api, consumer, operator, producer or publisher.")],
    *,
    nkey: Annotated[
        str, typer.Option("--nkey", metavar="KEY", help="Public key of the user: U and 55 further characters.")
    ],
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Tenant of a producer or publisher; only these have one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's entry for the server's configuration.

    For a producer it is the account of the tenant, which can do nothing but send requests to the API. Add it to
    tenants.conf, or with --json to config.merge.accounts of the NATS chart's values. Then reload the servers twice.

    For other roles it is a user of the product's account. Every such user is trusted, also a publisher. A notice on
    stderr gives the inbox prefix of the role: the value of ONEPROTECT_NATS_INBOX_PREFIX.
    """
    from messaging.admin.manifests import conf, conf_fields, tenant_account, user_entry

    found = _find_role(role, tenant)
    if not _is_public_key(nkey):
        raise BadUsage("--nkey: expected a public key, U and 55 further characters; never pass the seed (SU...)")
    if role is RoleName.PRODUCER and tenant is not None:
        account = tenant_account(tenant, nkey)
        write_result({"accounts": account, "subject": found.publish[0]}, conf_fields(account), as_json=as_json)
        return
    entry = user_entry(found, nkey)
    write_result({"user": entry, "inbox_prefix": found.inbox_prefix}, conf(entry), as_json=as_json)
    if role is RoleName.PUBLISHER:
        print_notice(_TRUST)
    print_notice(f"inbox prefix: {found.inbox_prefix}")


def _find_role(name: RoleName, tenant: str | None) -> "NatsRole":
    from messaging.admin.permissions import ROLES, producer, publisher
    from schemas import validation

    if name in (RoleName.PRODUCER, RoleName.PUBLISHER):
        if tenant is None:
            raise BadUsage(f"--tenant: required for the role {name}")
        valid = validation.name(tenant, "--tenant")
        return producer(valid) if name is RoleName.PRODUCER else publisher(valid)
    if tenant is not None:
        raise BadUsage("--tenant: only the roles producer and publisher have a tenant; omit the option")
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
