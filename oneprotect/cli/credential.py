"""`oneprotect credential`: which Secrets sign a tenant's deliveries. Refs go in and never come out."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.options import AsJson, Tenant, examples
from schemas.ids import Purpose

if TYPE_CHECKING:
    from oneprotect.settings import Settings
    from oneprotect.wiring import JetStream
    from schemas.config import CredentialView

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
        from oneprotect.cli.session import who

        return await jetstream.configuration.set_credential(tenant, credential, fields, by=who())

    from oneprotect.cli.output import write_json, write_line
    from oneprotect.cli.session import connected

    view = connected(work)
    if as_json:
        write_json(view)
    else:
        write_line(f"Credential {tenant}/{credential} is set.")


@app.command(epilog=examples("oneprotect credential get orders-key --tenant acme"))
def get(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show what is known about a credential. Its ref is never shown."""
    from oneprotect.cli.output import write_fields, write_json
    from oneprotect.cli.session import connected

    async def work(jetstream: "JetStream", _: "Settings") -> "CredentialView":
        return await jetstream.configuration.get_credential(tenant, credential)

    view = connected(work)
    if as_json:
        write_json(view)
        return
    shown = {field: getattr(view, field) for field in view.__struct_fields__}
    shown["rollover"] = _rollover(view)
    write_fields(shown.items())


@app.command(name="list", epilog=examples("oneprotect credential list --tenant acme --json"))
def list_(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's credentials."""
    from oneprotect.cli.output import write_json, write_table
    from oneprotect.cli.session import connected

    async def work(jetstream: "JetStream", _: "Settings") -> "list[CredentialView]":
        return await jetstream.configuration.list_credentials(tenant)

    views = connected(work)
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "purpose", "status", "checked at", "version", "rollover"),
        [(view.id, view.purpose, view.status, view.checked_at, view.version, _rollover(view)) for view in views],
        empty="The tenant has no credentials; see `oneprotect credential set --help`.",
    )


@app.command(epilog=examples("oneprotect credential delete orders-key --tenant acme"))
def delete(credential: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Delete a credential that no destination uses any more. The Secret stays as it is."""
    from oneprotect.cli.output import write_json, write_line
    from oneprotect.cli.session import connected, who

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        await jetstream.configuration.delete_credential(tenant, credential, by=who())

    connected(work)
    if as_json:
        write_json({"id": credential, "tenant": tenant, "deleted": True})
    else:
        write_line(f"Credential {tenant}/{credential} is deleted.")


def _rollover(view: "CredentialView") -> str:
    if not view.rollover.active:
        return "none"
    return f"until {view.rollover.expires_at:%Y-%m-%d %H:%M:%S}" if view.rollover.expires_at else "active"
