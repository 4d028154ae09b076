"""`oneprotect quarantine`: messages that could not be understood, kept as they came."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.options import AnyTenant, AsJson, Before, Limit, Since, Until, examples
from schemas.codes import Code

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings

app = typer.Typer(
    help="Messages that could not be understood. They are kept as they came, for thirty days.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="Its number in the list.")]


@app.command(
    name="list",
    epilog=examples("oneprotect quarantine list --since 1d", "oneprotect quarantine list --tenant acme --json"),
)
def list_(
    *,
    tenant: AnyTenant = None,
    code: Annotated[Code | None, typer.Option("--code", metavar="CODE", help="Only those with it.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List them with their reasons, the newest first."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.parsing import read_time
    from oneprotect.cli.views.quarantine import QuarantineCli
    from schemas import validation

    if tenant is not None:
        validation.name(tenant, "--tenant")
    begin, end = read_time(since, "--since"), read_time(until, "--until")

    async def work(jetstream: "JetStream", settings: "Settings") -> None:
        quarantining = QuarantineCli(jetstream, settings, as_json=as_json)
        await quarantining.list_newest(
            tenant=tenant, code=code and code.value, since=begin, until=end, limit=limit, before=before
        )

    connected(work)


@app.command(
    epilog=examples("oneprotect quarantine show 7", "oneprotect quarantine show 7 --raw > message.json"),
)
def show(
    number: Number,
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write its bytes as they came, and nothing else. They may hold anything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where one came from, why it was not understood, and whether it would be now."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.errors import BadUsage
    from oneprotect.cli.views.quarantine import QuarantineCli

    if raw and as_json:
        raise BadUsage("only one of --raw and --json")

    async def work(jetstream: "JetStream", settings: "Settings") -> None:
        quarantining = QuarantineCli(jetstream, settings, as_json=as_json)
        if raw:
            await quarantining.write_raw(number)
        else:
            await quarantining.show(number)

    connected(work)


@app.command(epilog=examples("oneprotect quarantine release 7 8"))
def release(
    numbers: Annotated[list[int], typer.Argument(metavar="N...", min=1, help="Their numbers in the list.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Those, too, that would come back as they can't be understood.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask. Nobody is asked where there is no terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish the bytes again to where they came from. They stay in the quarantine, too."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.views.quarantine import QuarantineCli

    async def work(jetstream: "JetStream", settings: "Settings") -> None:
        quarantining = QuarantineCli(jetstream, settings, as_json=as_json)
        await quarantining.release(numbers, force=force, ask=not yes)

    connected(work)
