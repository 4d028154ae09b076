"""`oneprotect credential`: which Secrets sign a tenant's deliveries. Refs go in and never come out."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson, Tenant, examples
from schemas.ids import Purpose

if TYPE_CHECKING:
    from messaging.client.connection import NatsConnection
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings
    from schemas.configuration import CredentialState, CredentialView, Rollover

app = typer.Typer(
    help="Which Secrets sign a tenant's deliveries. A credential holds a ref; the secret stays in its Secret.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The credential's id, for example orders-key.")]


@app.command(
    name="set",
    epilog=examples(
        "oneprotect credential set orders-key --tenant acme --secret-ref k8s://webhooks/acme-orders/signing"
    ),
)
def set_(
    credential: Id,
    *,
    tenant: Tenant,
    secret_ref: Annotated[
        str,
        typer.Option(
            "--secret-ref",
            metavar="REF",
            help="k8s://NAMESPACE/SECRET/KEY, or k8s://SECRET/KEY with a central namespace. Never the secret itself.",
        ),
    ],
    purpose: Annotated[Purpose, typer.Option("--purpose", help="What it is for.")] = Purpose.WEBHOOK_SIGNING,
    as_json: AsJson = False,
) -> None:
    """Create a credential, or replace it.

    The Secret must carry the labels oneprotect.io/tenant and oneprotect.io/purpose, its owner's consent. See
    `oneprotect secret check`, which tries it out.
    """
    fields: dict[str, object] = {"secret_ref": secret_ref, "purpose": purpose.value}

    async def work(jetstream: "JetStream", _: "Settings") -> "CredentialView":
        from oneprotect.cli.support.context import current_user

        return await jetstream.configuration.set_credential(tenant, credential, fields, by=current_user())

    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_line

    view = connected(work)
    if as_json:
        write_json(view)
    else:
        write_line(f"Credential {tenant}/{credential} is set.")


@app.command(epilog=examples("oneprotect credential get orders-key --tenant acme"))
def get(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show what is known about a credential. Its ref is never shown."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_fields, write_json

    async def work(jetstream: "JetStream", _: "Settings") -> "CredentialView":
        return await jetstream.configuration.get_credential(tenant, credential)

    view = connected(work)
    if as_json:
        write_json(view)
        return
    shown = {field: getattr(view, field) for field in view.__struct_fields__}
    shown["rollover"] = _rollover(view.rollover)
    write_fields(shown.items())


@app.command(name="list", epilog=examples("oneprotect credential list --tenant acme --json"))
def list_(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's credentials."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_table

    async def work(jetstream: "JetStream", _: "Settings") -> "list[CredentialView]":
        return await jetstream.configuration.list_credentials(tenant)

    views = connected(work)
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "purpose", "status", "checked at", "version", "rollover"),
        [
            (view.id, view.purpose, view.status, view.checked_at, view.version, _rollover(view.rollover))
            for view in views
        ],
        empty="The tenant has no credentials; see `oneprotect credential set --help`.",
    )


@app.command(epilog=examples("oneprotect credential check orders-key --tenant acme"))
def check(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Let a consumer read the credential's Secret now, and show what it found; its ref is never shown.

    Consumers look by themselves when a credential changes, when a delivery meets something new, and every few minutes.
    What waits for a Secret goes on as soon as this finds it. Exit code 1 unless the status is `configured`.
    """
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_fields, write_json
    from oneprotect.doctor.remedies import SENTENCES
    from schemas.codes import CredentialStatus

    async def work(jetstream: "JetStream", _: "Settings") -> "CredentialState":
        await jetstream.configuration.get_credential(tenant, credential)
        return await _checked(jetstream.connection, tenant, credential)

    state = connected(work)
    fields = {"id": credential, "tenant": tenant} | {name: getattr(state, name) for name in state.__struct_fields__}
    if as_json:
        write_json(fields)
    else:
        write_fields((fields | {"rollover": _rollover(state.rollover)}).items())
    if state.status is not CredentialStatus.CONFIGURED:
        raise CliError(f"{state.status.value}: {SENTENCES[state.status]}", fields={"status": state.status.value})


async def _checked(connection: "NatsConnection", tenant: str, credential: str) -> "CredentialState":
    """What one consumer finds. Raises `CliError` when none does."""
    from consumers.credentials.control_client import NoConsumerReplied, check_credential

    try:
        return await check_credential(connection, tenant, credential)
    except NoConsumerReplied as error:
        problem = str(error)
    raise CliError(problem)


@app.command(epilog=examples("oneprotect credential delete orders-key --tenant acme"))
def delete(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Delete a credential that no destination uses any more. The Secret stays as it is."""
    from oneprotect.cli.support.context import connected, current_user
    from oneprotect.cli.support.output import write_json, write_line

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        await jetstream.configuration.delete_credential(tenant, credential, by=current_user())

    connected(work)
    if as_json:
        write_json({"id": credential, "tenant": tenant, "deleted": True})
    else:
        write_line(f"Credential {tenant}/{credential} is deleted.")


def _rollover(rollover: "Rollover") -> str:
    if rollover.active:
        return f"until {rollover.expires_at:%Y-%m-%d %H:%M:%S}" if rollover.expires_at else "active"
    return "misconfigured: the previous key does not sign" if rollover.misconfigured else "none"
