"""`oneprotect attempts`: how deliveries went, from the results on record and as they are recorded."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.options import AnyTenant, AsJson, OneDestination, Since, Until
from schemas.codes import Code, Outcome

if TYPE_CHECKING:
    from consumers.attempts.search import AttemptFilter
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings
    from schemas.events import DeliveryAttempted


def attempts(
    *,
    tenant: AnyTenant = None,
    destination: OneDestination = None,
    delivery: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only those of this delivery.")] = None,
    outcomes: Annotated[list[Outcome] | None, typer.Option("--outcome", help="Only these. Repeatable.")] = None,
    codes: Annotated[
        list[Code] | None, typer.Option("--code", metavar="CODE", help="Only these, for example http.5xx. Repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The newest so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new ones as they come, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how deliveries went, one line an attempt, the newest last."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.errors import BadUsage

    if destination and not tenant:
        raise BadUsage("--destination: it needs its --tenant")
    if follow and until:
        raise BadUsage("--until: what comes can't have been before; leave out --follow or --until")
    wanted = _wanted(tenant, destination, delivery, outcomes or (), codes or (), since, until)
    show = _shower(with_tenant=tenant is None, as_json=as_json)

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        if follow:
            await _follow(jetstream, wanted, limit, show)
        else:
            await _list(jetstream, wanted, limit, show, as_json=as_json)

    connected(work)


def _wanted(
    tenant: str | None,
    destination: str | None,
    delivery: str | None,
    outcomes: Iterable[Outcome],
    codes: Iterable[Code],
    since: str | None,
    until: str | None,
) -> "AttemptFilter":
    from consumers.attempts.search import AttemptFilter
    from oneprotect.cli.support.parsing import read_time
    from schemas import validation

    return AttemptFilter(
        tenant=tenant and validation.name(tenant, "--tenant"),
        destination=destination and validation.name(destination, "--destination"),
        delivery=delivery and validation.delivery_id(delivery, "--id"),
        outcomes=frozenset(outcomes),
        codes=frozenset(codes),
        since=read_time(since, "--since"),
        until=read_time(until, "--until"),
    )


async def _list(
    jetstream: "JetStream",
    wanted: "AttemptFilter",
    limit: int,
    show: "Callable[[DeliveryAttempted], None]",
    *,
    as_json: bool,
) -> None:
    from consumers.attempts.search import read_newest
    from oneprotect.cli.support.output import print_notice

    found = await read_newest(jetstream.connection, wanted, limit=limit)
    for one in reversed(found):
        show(one.event)
    if not found and not as_json:
        print_notice("no attempt on record fits")


async def _follow(
    jetstream: "JetStream", wanted: "AttemptFilter", limit: int, show: "Callable[[DeliveryAttempted], None]"
) -> None:
    """Show the newest, and then each that is recorded, until SIGINT or SIGTERM."""
    import asyncio

    from consumers.attempts.log import follow
    from consumers.attempts.search import read_newest
    from oneprotect.bootstrap.process import stop_on_signals

    stop = stop_on_signals()
    async with follow(jetstream.connection, wanted.tenant or "*", wanted.destination or "*") as coming:
        shown: set[tuple[str, str, str]] = set()  # what is recorded while the newest are read comes twice
        for one in reversed(await read_newest(jetstream.connection, wanted, limit=limit)):
            show(one.event)
            shown.add(_identity(one.event))
        going_on = asyncio.create_task(_show_new(coming, wanted, shown, show))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({going_on, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if going_on.done():
            going_on.result()
        going_on.cancel()


async def _show_new(
    coming: "AsyncIterator[DeliveryAttempted]",
    wanted: "AttemptFilter",
    shown: set[tuple[str, str, str]],
    show: "Callable[[DeliveryAttempted], None]",
) -> None:
    async for event in coming:
        if wanted.matches(event) and _identity(event) not in shown:
            show(event)


def _identity(event: "DeliveryAttempted") -> tuple[str, str, str]:
    return event.tenant, event.data.destination, event.id


def _shower(*, with_tenant: bool, as_json: bool) -> "Callable[[DeliveryAttempted], None]":
    import msgspec
    from rich.text import Text

    from oneprotect.cli.support.output import write_json, write_line
    from oneprotect.cli.views.attempt import attempt_line

    def show(event: "DeliveryAttempted") -> None:
        if as_json:
            write_json({"tenant": event.tenant} | msgspec.structs.asdict(event.data))
        elif with_tenant:
            write_line(Text.assemble(f"{event.tenant:<12} ", attempt_line(event.data)))
        else:
            write_line(attempt_line(event.data))

    return show
