"""`oneprotect attempts`: stored results of attempts, and new ones as consumers store them."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import run_connected
from oneprotect.cli.support.errors import BadUsage
from oneprotect.cli.support.options import AnyTenant, AsJson, OneDestination, Since, Until
from oneprotect.cli.support.parsing import parse_time
from schemas import validation
from schemas.codes import Code, Outcome

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream


def attempts(
    *,
    tenant: AnyTenant = None,
    destination: OneDestination = None,
    delivery: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only this delivery.")] = None,
    outcomes: Annotated[
        list[Outcome] | None, typer.Option("--outcome", metavar="OUTCOME", help="Only this outcome. Repeatable.")
    ] = None,
    codes: Annotated[
        list[Code] | None,
        typer.Option("--code", metavar="CODE", help="Only this result code, for example http.5xx. Repeatable."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="Maximum number of stored attempts.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Also show new attempts, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show attempts, one per line, newest last.

    A line shows the time, the delivery, the attempt number, the outcome with its code, the duration, and the time of
    the next attempt. Outcomes: delivered, retry_scheduled, failed, skipped, suppressed.
    """
    from consumers.attempts.search import AttemptFilter
    from oneprotect.cli.views.attempts import AttemptList

    if destination and not tenant:
        raise BadUsage("--destination: requires --tenant")
    if follow and until:
        raise BadUsage("--until: conflicts with --follow; omit one of them")
    chosen = AttemptFilter(
        tenant=tenant and validation.name(tenant, "--tenant"),
        destination=destination and validation.name(destination, "--destination"),
        delivery=delivery and validation.delivery_id(delivery, "--id"),
        outcomes=frozenset(outcomes or ()),
        codes=frozenset(codes or ()),
        since=parse_time(since, "--since"),
        until=parse_time(until, "--until"),
    )

    async def work(jetstream: "JetStream") -> None:
        found = AttemptList(jetstream.connection, chosen, limit=limit, as_json=as_json)
        await (found.follow() if follow else found.write())

    run_connected(work)
