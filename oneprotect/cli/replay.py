"""`oneprotect replay`: kept deliveries are requested once more."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.failure import BadUsage
from oneprotect.cli.options import AsJson, OneDestination, Since, Tenant, Until
from schemas.codes import Code

if TYPE_CHECKING:
    from oneprotect.settings import Settings
    from oneprotect.wiring import JetStream
    from schemas.config import ReplayFilter


def replay(
    *,
    tenant: Tenant,
    destination: OneDestination = None,
    since: Since = None,
    until: Until = None,
    codes: Annotated[
        list[Code] | None,
        typer.Option("--code", metavar="CODE", help="Only those that failed with it, like http.5xx. Repeatable."),
    ] = None,
    event_types: Annotated[
        list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only events of this type. Repeatable.")
    ] = None,
    deliveries: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Only this delivery. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be replayed.")] = False,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, max=1_000_000, metavar="N", help="Deliveries a second, at most."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask. Nobody is asked where there is no terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Request deliveries that failed or were skipped once more, with the same ids.

    One that has been attempted again since is left alone. Interrupted, a replay keeps its progress, and goes on with
    the command that it prints then.
    """
    from oneprotect.cli.replaying import Replaying
    from oneprotect.cli.session import connected
    from schemas import checked

    checked.name(tenant, "--tenant")
    chosen = _filter(destination, since, until, codes or [], event_types or [], deliveries or [])

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        replaying = Replaying(jetstream.replayer, tenant, chosen, as_json=as_json)
        if dry_run:
            await replaying.preview()
        else:
            await replaying.run(rate_per_s=rate, ask=not yes)

    connected(work)


def _filter(
    destination: str | None,
    since: str | None,
    until: str | None,
    codes: list[Code],
    event_types: list[str],
    deliveries: list[str],
) -> "ReplayFilter":
    """In one order whatever the command's, so that an unfinished replay is found again."""
    from oneprotect.cli.reading import read_time
    from schemas import checked
    from schemas.config import ReplayFilter

    begin, end = read_time(since, "--since"), read_time(until, "--until")
    if begin and end and begin >= end:
        raise BadUsage("--until: expected a time after --since")
    return checked.round_trip(
        ReplayFilter(
            destination=destination and checked.name(destination, "--destination"),
            since=begin,
            until=end,
            codes=tuple(sorted({code.value for code in codes})),
            event_types=tuple(sorted(set(event_types))),
            ids=tuple(sorted({checked.delivery_id(delivery, "--id") for delivery in deliveries})),
        )
    )
