"""`oneprotect replay` and `oneprotect retry`: further attempts of failed, delivered or scheduled deliveries."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import run_connected
from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, OneDestination, Since, Tenant, Until, Yes
from oneprotect.cli.support.output import write_result
from oneprotect.cli.support.parsing import parse_time
from schemas import validation
from schemas.codes import Code
from schemas.configuration import KeptOutcome, ReplayFilter

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream


class FailedOutcome(StrEnum):
    """Outcomes with which a delivery is retained as failed."""

    FAILED = "failed"
    SKIPPED = "skipped"


Codes = Annotated[
    list[Code] | None,
    typer.Option("--code", metavar="CODE", help="Only this result code, for example http.5xx. Repeatable."),
]
EventTypes = Annotated[
    list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only this event type. Repeatable.")
]
Outcomes = Annotated[
    list[FailedOutcome] | None,
    typer.Option("--outcome", metavar="failed|skipped", help="Only this outcome. Repeatable. Default: both."),
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
        bool, typer.Option("--delivered", help="Replay archived deliveries instead, for a receiver that lost them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which deliveries a replay would send.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", min=0.001, max=1_000_000, metavar="N", help="Maximum deliveries per second. Default: no limit."
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the tenant's replays.")] = False,
    resume: Annotated[str | None, typer.Option("--resume", metavar="REPLAY", help="Resume this replay.")] = None,
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="REPLAY", help="Cancel this replay, on any machine.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Request failed and skipped deliveries again, with the same ids. With --delivered, request archived ones.

    A replay skips deliveries that have been attempted since or are already scheduled. One replay per tenant runs at a
    time; a second one waits. An interrupted replay saves its progress; run the same command, or the one it prints, to
    resume.
    """
    from oneprotect.cli.views.replay import ReplayCli

    validation.name(tenant, "--tenant")
    if delivered and outcomes:
        raise BadUsage("--delivered: conflicts with --outcome; run two replays instead")
    chosen = build_filter(
        destination, since, until, codes, event_types, deliveries, filter_outcomes(outcomes, delivered=delivered)
    )
    _require_one_action(chosen, dry_run=dry_run, list_=list_, resume=resume, cancel=cancel, rate=rate)

    async def work(jetstream: "JetStream") -> None:
        replays = ReplayCli(jetstream.replayer, tenant, as_json=as_json)
        if list_:
            await replays.show_all()
        elif cancel:
            await replays.cancel(cancel)
        elif dry_run:
            await replays.preview(chosen)
        else:
            await replays.run(chosen, resume=resume, rate_per_s=rate, ask=not yes)

    run_connected(work)


def filter_outcomes(chosen: Sequence[FailedOutcome] | None, *, delivered: bool = False) -> tuple[KeptOutcome, ...]:
    """Return the outcomes of a filter."""
    return ("delivered",) if delivered else tuple(sorted({outcome.value for outcome in chosen or ()}))


def build_filter(
    destination: str | None,
    since: str | None,
    until: str | None,
    codes: list[Code] | None,
    event_types: list[str] | None,
    deliveries: list[str] | None,
    outcomes: tuple[KeptOutcome, ...] = (),
) -> ReplayFilter:
    """Return the filter of the options. It is sorted, so that the same options find an interrupted replay.

    Raises `BadUsage` and `ValidationError`.
    """
    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
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


def _require_one_action(
    chosen: ReplayFilter, *, dry_run: bool, list_: bool, resume: str | None, cancel: str | None, rate: float | None
) -> None:
    if sum((dry_run, list_, resume is not None, cancel is not None)) > 1:
        raise BadUsage("--dry-run, --list, --resume and --cancel conflict; use only one of them")
    if chosen != ReplayFilter() and (list_ or resume is not None or cancel is not None):
        raise BadUsage("--list, --resume and --cancel accept no filter; omit the filter options")
    if rate is not None and (dry_run or list_ or cancel is not None):
        raise BadUsage("--rate: has no effect here; omit it")
    for replay_id, option in ((resume, "--resume"), (cancel, "--cancel")):
        if replay_id is not None:
            validation.name(replay_id, option)


def retry(
    *,
    tenant: Tenant,
    delivery: Annotated[str, typer.Option("--id", metavar="ID", help="Delivery id.")],
    destination: OneDestination = None,
    as_json: AsJson = False,
) -> None:
    """Start the next attempt of a delivery now, instead of at its scheduled time.

    The attempt is made once, and the later waits of the retry schedule do not change. A failed delivery has no
    scheduled attempt: use `oneprotect replay --id` for it.
    """
    from consumers.retries.reschedule import RetryNow

    validation.name(tenant, "--tenant")
    validation.delivery_id(delivery, "--id")
    if destination is not None:
        validation.name(destination, "--destination")
    destinations = run_connected(
        lambda jetstream: RetryNow(jetstream.connection, jetstream.publisher).retry(
            tenant, delivery, destination=destination or "*"
        )
    )
    if not destinations:
        raise CliError(
            "no attempt of this delivery is scheduled; see `oneprotect attempts --id`, and request a failed delivery "
            "again with `oneprotect replay --id`"
        )
    result = {"tenant": tenant, "id": delivery, "destinations": destinations}
    write_result(result, f"Retrying now: {', '.join(destinations)}.", as_json=as_json)
