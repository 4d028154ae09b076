"""`oneprotect token`: who may use the HTTP API, for which tenant, and for what."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson, examples
from schemas.roles import Role

if TYPE_CHECKING:
    from oneprotect.api.auth.token_format import IssuedToken
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings
    from schemas.roles import TokenView

app = typer.Typer(
    help="Who may use the HTTP API. A token is shown once, when it is made; only its SHA-256 is kept.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ForTenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="For this tenant; '*' for all of them.")]


@app.command(
    epilog=examples(
        "oneprotect token create --tenant acme --role producer --name billing",
        "oneprotect token create --tenant '*' --role operator --role viewer --json",
    )
)
def create(
    *,
    tenant: ForTenant,
    roles: Annotated[
        list[Role],
        typer.Option(
            "--role",
            help="producer asks for deliveries; admin configures; operator replays; viewer looks. Repeatable.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Who or what it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token, and show it. It can't be shown again: hand it over, or keep it in a password manager."""
    from oneprotect.cli.support.context import connected, current_user
    from oneprotect.cli.support.output import print_notice, write_json, write_line
    from schemas import validation
    from schemas.roles import TokenSpec

    spec = validation.round_trip(TokenSpec(tenant=tenant, roles=tuple(roles), name=name))

    async def work(jetstream: "JetStream", _: "Settings") -> "tuple[TokenView, IssuedToken]":
        return await jetstream.tokens.create(spec, by=current_user())

    view, issued = connected(work)
    if as_json:
        write_json({"id": view.id, "tenant": view.tenant, "roles": view.roles, "token": issued.reveal()})
        return
    write_line(issued.reveal())
    print_notice(f"its id is {view.id}; it is not shown again. Send it as `Authorization: Bearer …`")


@app.command(name="list", epilog=examples("oneprotect token list --tenant acme"))
def list_(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's; '*' for those of all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, and when each was last used, to the minute."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_table

    async def work(jetstream: "JetStream", _: "Settings") -> "list[TokenView]":
        return await jetstream.tokens.list(tenant)

    views = connected(work)
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "tenant", "roles", "name", "created at", "by", "last used at"),
        [(v.id, v.tenant, v.roles, v.name, v.created_at, v.created_by, v.last_used_at) for v in views],
        empty="There are no tokens; see `oneprotect token create --help`.",
    )


@app.command(epilog=examples("oneprotect token delete 4fz8m2k0q7xw1a9c"))
def delete(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, from `oneprotect token list`.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Revoke a token. Within a second no API process takes it any more."""
    from oneprotect.api.auth.token_store import UnknownToken
    from oneprotect.cli.support.context import connected, current_user
    from oneprotect.cli.support.output import write_json, write_line

    async def work(jetstream: "JetStream", _: "Settings") -> "TokenView | None":
        try:
            return await jetstream.tokens.delete(token, by=current_user())
        except UnknownToken:
            return None

    view = connected(work)
    if view is None:
        raise CliError("there is no token of this id; see `oneprotect token list`")
    if as_json:
        write_json({"id": view.id, "tenant": view.tenant, "deleted": True})
    else:
        write_line(f"Token {view.id} is revoked.")
