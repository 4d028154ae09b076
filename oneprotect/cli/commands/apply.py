"""`oneprotect apply`: streams, consumers and buckets, made to be what this version needs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneprotect.cli.support.errors import DONE, FAILED
from oneprotect.cli.support.options import AsJson

if TYPE_CHECKING:
    from messaging.admin.topology import TopologyChange
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings


def apply(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if something would be changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create or update streams, consumers and buckets in NATS to what this version needs.

    Safe to run at any time, and again: what is right already stays as it is.
    """
    from messaging.admin import topology
    from oneprotect.bootstrap.resources import archive_of
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json

    async def work(jetstream: "JetStream", settings: "Settings") -> "list[TopologyChange]":
        return await topology.apply(
            jetstream.connection,
            replicas=settings.nats.replicas,
            work_per_destination=settings.nats.work_per_destination,
            ack_wait_s=settings.delivery.ack_wait_s,
            archive=archive_of(settings),
            check=check,
        )

    changes = connected(work)
    differ = sum(change.action != "none" for change in changes)
    if as_json:
        write_json({"check": check, "differ": differ, "changes": changes})
    else:
        _show(changes, differ, check=check)
    raise typer.Exit(FAILED if check and differ else DONE)


def _show(changes: "list[TopologyChange]", differ: int, *, check: bool) -> None:
    from oneprotect.cli.support.output import write_line, write_table

    rows = [
        (change.kind, change.name, change.action, *_difference(change.fields))
        for change in changes
        if change.action != "none"
    ]
    write_table(("kind", "name", "action", "what"), rows, empty="Everything is as this version needs it.")
    for change in changes:
        if change.note:
            write_line(f"{change.name}: {change.note}")
    if differ:
        write_line(f"{differ} of {len(changes)} " + ("differ; nothing was changed." if check else "changed."))


def _difference(fields: dict[str, tuple[Any, Any]]) -> tuple[str]:
    return ("; ".join(f"{name}: {_short(old)} → {_short(new)}" for name, (old, new) in fields.items()),)


def _short(value: object) -> str:
    return "none" if value is None else str(value)
