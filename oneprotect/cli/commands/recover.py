"""`oneprotect recover`: messages that a consumer of NATS has lost."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import run_connected
from oneprotect.cli.support.options import AsJson
from oneprotect.cli.support.output import write_json, write_line, write_table

if TYPE_CHECKING:
    from consumers.queues.lost_messages import Recovery
    from oneprotect.bootstrap.resources import JetStream


def recover(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, and show what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring back messages that a NATS consumer has lost, so that they are delivered.

    A message is lost when it is stored, and its consumer neither delivers it nor waits for its acknowledgement. That
    happens when a part of a stream is purged. Run the command before any NATS server restarts: a restart removes lost
    messages. What a running consumer process has in hand is left to it; run the command again later.
    """
    from consumers.queues.lost_messages import LostMessages
    from schemas import streams

    async def work(jetstream: "JetStream") -> "list[Recovery]":
        messages = LostMessages(jetstream.connection, jetstream.publisher, jetstream.destinations)
        return [await messages.recover(consumer, dry_run=dry_run) for consumer in streams.CONSUMERS]

    found = run_connected(work)
    if as_json:
        write_json([{"dry_run": dry_run, **_fields(one)} for one in found])
        return
    titles = ("consumer", "lost", "in hand", "recovered", "in order")
    write_table(titles, [tuple(_fields(one).values()) for one in found if one.lost], empty="No message is lost.")
    if dry_run and any(one.lost for one in found):
        write_line("Nothing was changed.")


def _fields(one: "Recovery") -> dict[str, str | int]:
    return {
        "consumer": one.consumer,
        "lost": one.lost,
        "in_hand": one.in_hand,
        "recovered": one.recovered,
        "in_order": one.in_order,
    }
