"""`oneprotect replay`: kept deliveries are requested once more."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import BadUsage
from oneprotect.cli.support.options import AsJson, OneDestination, Since, Tenant, Until
from schemas.codes import Code

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings
    from schemas.configuration import KeptOutcome, ReplayFilter


class FailedOutcome(StrEnum):
    """Of the outcomes, those with which a delivery is kept as failed."""

    FAILED = "failed"
    SKIPPED = "skipped"


Codes = Annotated[
    list[Code] | None,
    typer.Option("--code", metavar="CODE", help="Only those that failed with it, like http.5xx. Repeatable."),
]
EventTypes = Annotated[
    list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only events of this type. Repeatable.")
]
Outcomes = Annotated[
    list[FailedOutcome] | None,
    typer.Option("--outcome", help="Only those that ended so. Repeatable."),
]
Deliveries = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this delivery. Repeatable.")]


def replay(
    *,
    tenant: Tenant,
    destination: OneDestination = None,
    since: Since = None,
    until: Until = None,
    codes: Codes = None,
    event_types: EventTypes = None,
    deliveries: Deliveries = None,
    outcomes: Outcomes = None,
    delivered: Annotated[
        bool, typer.Option("--delivered", help="Those that were delivered, instead: for a receiver that lost them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be replayed.")] = False,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, max=1_000_000, metavar="N", help="Deliveries a second, at most."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the tenant's replays instead.")] = False,
    resume: Annotated[str | None, typer.Option("--resume", metavar="REPLAY", help="Go on with this one.")] = None,
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="REPLAY", help="Stop this one, wherever it runs, for good.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask. Nobody is asked where there is no terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Request deliveries that failed or were skipped once more, with the same ids; or those that were delivered.

    One that has been attempted again since, or waits for that, is left alone. One replay of a tenant runs at a time;
    another waits for it. Interrupted, a replay keeps its progress, and goes on with the command that it prints then,
    or with the same one again.
    """
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.views.replay import ReplayCli
    from schemas import validation

    validation.name(tenant, "--tenant")
    if delivered and outcomes:
        raise BadUsage("--delivered: not together with --outcome, as these are kept elsewhere; make two replays of it")
    chosen = filter_of(
        destination, since, until, codes, event_types, deliveries, outcomes_of(outcomes, delivered=delivered)
    )
    _only_one(chosen, dry_run=dry_run, list_=list_, resume=resume, cancel=cancel, rate=rate)

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        replaying = ReplayCli(jetstream.replayer, tenant, as_json=as_json)
        if list_:
            await replaying.show_all()
        elif cancel:
            await replaying.cancel(cancel)
        elif dry_run:
            await replaying.preview(chosen)
        else:
            await replaying.run(chosen, resume=resume, rate_per_s=rate, ask=not yes)

    connected(work)


def outcomes_of(ended: Sequence[FailedOutcome] | None, *, delivered: bool = False) -> tuple["KeptOutcome", ...]:
    """What a filter says of outcomes."""
    return ("delivered",) if delivered else tuple(sorted({one.value for one in ended or ()}))


def filter_of(
    destination: str | None,
    since: str | None,
    until: str | None,
    codes: list[Code] | None,
    event_types: list[str] | None,
    deliveries: list[str] | None,
    outcomes: tuple["KeptOutcome", ...] = (),
) -> "ReplayFilter":
    """The filter that the options mean, in one order whatever theirs, so that an unfinished replay is found again.

    Raises `BadUsage` or `ValidationError`.
    """
    from oneprotect.cli.support.parsing import read_time
    from schemas import validation
    from schemas.configuration import ReplayFilter

    begin, end = read_time(since, "--since"), read_time(until, "--until")
    if begin and end and begin >= end:
        raise BadUsage("--until: expected a time after --since")
    return validation.round_trip(
        ReplayFilter(
            destination=destination and validation.name(destination, "--destination"),
            since=begin,
            until=end,
            codes=tuple(sorted({code.value for code in codes or ()})),
            event_types=tuple(sorted(set(event_types or ()))),
            ids=tuple(sorted({validation.delivery_id(delivery, "--id") for delivery in deliveries or ()})),
            outcomes=outcomes,
        )
    )


def _only_one(
    chosen: "ReplayFilter", *, dry_run: bool, list_: bool, resume: str | None, cancel: str | None, rate: float | None
) -> None:
    """Check that the options say one thing."""
    from schemas import validation
    from schemas.configuration import ReplayFilter

    if sum((dry_run, list_, resume is not None, cancel is not None)) > 1:
        raise BadUsage("only one of --dry-run, --list, --resume and --cancel")
    if chosen != ReplayFilter() and (list_ or resume is not None or cancel is not None):
        raise BadUsage("--list, --resume and --cancel take no filter: a replay has its own")
    if rate is not None and (dry_run or list_ or cancel is not None):
        raise BadUsage("--rate: nothing is replayed here")
    for replay, option in ((resume, "--resume"), (cancel, "--cancel")):
        if replay is not None:
            validation.name(replay, option)
