"""`oneprotect quarantine`: invalid messages, stored unchanged."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import load_settings, run_connected
from oneprotect.cli.support.errors import BadUsage
from oneprotect.cli.support.options import AnyTenant, AsJson, Before, Limit, Since, Until, Yes, command_group, examples
from oneprotect.cli.support.parsing import parse_time
from schemas import validation
from schemas.codes import Code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oneprotect.cli.views.quarantine import QuarantineCli

app = command_group(
    "List, show and release messages that consumers could not read. They are stored unchanged for 30 days."
)

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the message, from the list.")]


@app.command(
    name="list",
    epilog=examples("oneprotect quarantine list --since 1d", "oneprotect quarantine list --tenant acme --json"),
)
def list_(
    *,
    tenant: AnyTenant = None,
    code: Annotated[
        Code | None, typer.Option("--code", metavar="CODE", help="Only this code, for example event.invalid.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List quarantined messages with their reasons, newest first."""
    if tenant is not None:
        validation.name(tenant, "--tenant")
    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    _run(
        lambda messages: messages.list_newest(
            tenant=tenant, code=code and code.value, since=begin, until=end, limit=limit, before=before
        ),
        as_json=as_json,
    )


@app.command(
    epilog=examples("oneprotect quarantine show 7", "oneprotect quarantine show 7 --raw > message.json"),
)
def show(
    number: Number,
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write only the bytes of the message, unchanged. They can be anything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a quarantined message.

    The output has its source, why it is invalid, and whether this version can read it.
    """
    if raw and as_json:
        raise BadUsage("--raw conflicts with --json; omit one of them")
    _run(lambda messages: messages.write_raw(number) if raw else messages.show(number), as_json=as_json)


@app.command(
    epilog=examples(
        "oneprotect quarantine release 7 8", "oneprotect quarantine release --all --code internal --since 1d"
    )
)
def release(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[N...]", min=1, help="Numbers of the messages, from the list.")
    ] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="All requests that are valid now, instead of numbers.")] = False,
    tenant: AnyTenant = None,
    code: Annotated[
        Code | None, typer.Option("--code", metavar="CODE", help="With --all: only this code, for example internal.")
    ] = None,
    since: Since = None,
    until: Until = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also release messages that are still invalid, and will return.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Publish messages again as requests, or as due retries. They also stay in the quarantine.

    A request whose result is on record is not sent again.
    """
    if all_ == bool(numbers) or (all_ and force):
        raise BadUsage("give either numbers, or --all without --force")
    if not all_:
        _run(lambda messages: messages.release(numbers or (), force=force, ask=not yes), as_json=as_json)
        return
    if tenant is not None:
        validation.name(tenant, "--tenant")
    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    _run(
        lambda messages: messages.release_all(
            tenant=tenant, code=code and code.value, since=begin, until=end, ask=not yes
        ),
        as_json=as_json,
    )


def _run(action: "Callable[[QuarantineCli], Awaitable[None]]", *, as_json: bool) -> None:
    from oneprotect.cli.views.quarantine import QuarantineCli

    settings = load_settings()
    run_connected(lambda jetstream: action(QuarantineCli(jetstream, settings, as_json=as_json)), settings)
