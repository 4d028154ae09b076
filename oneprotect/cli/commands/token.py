"""`oneprotect token`: tokens for the HTTP API."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import current_user, run_connected
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson, command_group, examples
from oneprotect.cli.support.output import print_notice, write_json, write_line, write_result, write_table
from schemas import validation
from schemas.roles import Role, TokenSpec

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from schemas.roles import TokenView

app = command_group("Manage tokens for the HTTP API. A token is shown once; only its SHA-256 is stored.")


@app.command(
    epilog=examples(
        "oneprotect token create --tenant acme --role producer --name billing",
        "oneprotect token create --tenant '*' --role operator --role viewer --json",
    )
)
def create(
    *,
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="TENANT", help="Tenant of the token, or '*' for all tenants.")
    ],
    roles: Annotated[
        list[Role],
        typer.Option(
            "--role",
            metavar="ROLE",
            help="producer: request deliveries; admin: configure; operator: replay; viewer: read. Repeatable.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="User or purpose of the token.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a token, and print it. It is never shown again: store it in a secret manager."""
    spec = validation.round_trip(TokenSpec(tenant=tenant, roles=tuple(roles), name=name))
    view, issued = run_connected(lambda jetstream: jetstream.tokens.create(spec, by=current_user()))
    if as_json:
        write_json({"id": view.id, "tenant": view.tenant, "roles": view.roles, "token": issued.reveal()})
        return
    write_line(issued.reveal())
    print_notice(f"the token's id is {view.id}; store the token now, it is not shown again")
    print_notice("send it with each request, as `Authorization: Bearer TOKEN`")


@app.command(name="list", epilog=examples("oneprotect token list --tenant acme"))
def list_(
    *,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Only this tenant; '*': tokens for all tenants. Default: all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, with the minute of their last use."""
    views = run_connected(lambda jetstream: jetstream.tokens.list(tenant))
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "tenant", "roles", "name", "created at", "by", "last used at"),
        [(v.id, v.tenant, v.roles, v.name, v.created_at, v.created_by, v.last_used_at) for v in views],
        empty="There are no tokens; create one with `oneprotect token create`.",
    )


@app.command(epilog=examples("oneprotect token delete 4fz8m2k0q7xw1a9c"))
def delete(
    token: Annotated[str, typer.Argument(metavar="ID", help="Token id, from `oneprotect token list`.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Revoke a token. Every API process refuses it within a second."""
    from oneprotect.api.auth.token_store import UnknownToken

    async def work(jetstream: "JetStream") -> "TokenView | None":
        try:
            return await jetstream.tokens.delete(token, by=current_user())
        except UnknownToken:
            return None

    view = run_connected(work)
    if view is None:
        raise CliError("no token has this id; see `oneprotect token list`")
    result = {"id": view.id, "tenant": view.tenant, "deleted": True}
    write_result(result, f"Token {view.id} is revoked.", as_json=as_json)
