"""`oneprotect credential`: the Secrets that sign a tenant's deliveries. Their refs are accepted and never shown."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import current_user, run_connected
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson, Tenant, command_group, examples
from oneprotect.cli.support.output import write_fields, write_json, write_result, write_table, write_view
from oneprotect.doctor.remedies import REMEDY_BY_STATUS
from schemas.codes import CredentialStatus
from schemas.ids import Purpose

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from schemas.configuration import CredentialState, Rollover

app = command_group(
    "Manage which Secrets sign a tenant's deliveries. A credential holds a ref; the Secret holds the key."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Credential id, for example orders-key.")]


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
            help="k8s://NAMESPACE/SECRET/KEY, or k8s://SECRET/KEY in the central namespace. Never the secret itself.",
        ),
    ],
    purpose: Annotated[
        Purpose, typer.Option("--purpose", metavar="PURPOSE", help="Use of the secret.")
    ] = Purpose.WEBHOOK_SIGNING,
    as_json: AsJson = False,
) -> None:
    """Create or replace a credential.

    The Secret must have the labels oneprotect.io/tenant and oneprotect.io/purpose, which state its owner's consent.
    `oneprotect secret check` tests a ref before you set it.
    """
    fields: dict[str, object] = {"secret_ref": secret_ref, "purpose": purpose.value}
    view = run_connected(
        lambda jetstream: jetstream.configuration.set_credential(tenant, credential, fields, by=current_user())
    )
    write_result(view, f"Credential {tenant}/{credential} is set.", as_json=as_json)


@app.command(epilog=examples("oneprotect credential get orders-key --tenant acme"))
def get(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a credential and its status, without its ref."""
    view = run_connected(lambda jetstream: jetstream.configuration.get_credential(tenant, credential))
    write_view(view, as_json=as_json, rollover=_format_rollover(view.rollover))


@app.command(name="list", epilog=examples("oneprotect credential list --tenant acme --json"))
def list_(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's credentials with their status."""
    views = run_connected(lambda jetstream: jetstream.configuration.list_credentials(tenant))
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "purpose", "status", "checked at", "version", "rollover"),
        [
            (view.id, view.purpose, view.status, view.checked_at, view.version, _format_rollover(view.rollover))
            for view in views
        ],
        empty="The tenant has no credentials; create one with `oneprotect credential set`.",
    )


@app.command(epilog=examples("oneprotect credential check orders-key --tenant acme"))
def check(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Ask a consumer to read the Secret, and show the status.

    Consumers also check a credential when it changes, when a delivery finds another status, and every few minutes.
    Deliveries that wait for the Secret are resumed if the status is `configured`: see `resuming_since`. Any other
    status exits with code 1.
    """
    from consumers.credentials.control_client import check_credential

    async def work(jetstream: "JetStream") -> "CredentialState":
        await jetstream.configuration.get_credential(tenant, credential)
        return await check_credential(jetstream.connection, tenant, credential)

    state = run_connected(work)
    fields = {"id": credential, "tenant": tenant} | {name: getattr(state, name) for name in state.__struct_fields__}
    if as_json:
        write_json(fields)
    else:
        write_fields((fields | {"rollover": _format_rollover(state.rollover)}).items())
    if state.status is not CredentialStatus.CONFIGURED:
        raise CliError(f"{state.status.value}: {REMEDY_BY_STATUS[state.status]}", fields={"status": state.status.value})


@app.command(epilog=examples("oneprotect credential delete orders-key --tenant acme"))
def delete(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Delete a credential that no destination uses. The Secret is not changed."""
    run_connected(lambda jetstream: jetstream.configuration.delete_credential(tenant, credential, by=current_user()))
    result = {"id": credential, "tenant": tenant, "deleted": True}
    write_result(result, f"Credential {tenant}/{credential} is deleted.", as_json=as_json)


def _format_rollover(rollover: "Rollover") -> str:
    if rollover.active:
        return f"until {rollover.expires_at:%Y-%m-%d %H:%M:%S}" if rollover.expires_at else "active"
    return "misconfigured: the previous key does not sign" if rollover.misconfigured else "none"
