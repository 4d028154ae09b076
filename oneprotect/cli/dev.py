"""`oneprotect dev`: everything at once for a developer, and every attempt as it is made."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from consumers.history import follow
from oneprotect.cli.showing import attempt_line
from oneprotect.cli.stage import SAMPLES, TENANT, Stage, stage
from oneprotect.wiring import stop_on_signals
from schemas.events import DeliveryAttempted

NATS_PORT: Final = 4222
DEFAULT_DIRECTORY: Final = Path(".oneprotect/dev")


async def run(directory: Path, *, console: Console, as_json: bool) -> int:
    """Keep everything running, and show each attempt, until Ctrl-C. Returns the exit code."""
    stop = stop_on_signals()
    async with stage(directory, nats_port=NATS_PORT) as running:
        if not as_json:
            _welcome(console, running)
        async with follow(running.jetstream.connection, TENANT) as attempts:
            showing = asyncio.create_task(_show(attempts, console, as_json=as_json))
            stopping = asyncio.create_task(stop.wait())
            ending = asyncio.create_task(running.consumer.wait())
            await asyncio.wait({stopping, ending, showing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (showing, stopping, ending):
                task.cancel()
        if not stop.is_set():
            console.print("[red]The consumer has stopped; its last words are above.[/]")
            return 1
    return 0


async def _show(attempts: AsyncIterator[DeliveryAttempted], console: Console, *, as_json: bool) -> None:
    async for event in attempts:
        if as_json:
            console.out(msgspec.json.encode(event.data).decode(), highlight=False)
        else:
            console.print(attempt_line(event.data), highlight=False)


def _welcome(console: Console, running: Stage) -> None:
    table = Table("destination", "receiver", "what it shows", title=f"tenant {TENANT}", title_justify="left")
    for sample in SAMPLES:
        table.add_row(sample.name, running.receiver.url(sample.path), sample.shows)
    console.print(table)
    console.print(f"NATS at [bold]{running.settings.nats.url}[/]. Try, in another terminal:")
    console.print(
        f"""  export ONEPROTECT_NATS_URL={running.settings.nats.url}
  echo '{{"total": 42}}' | oneprotect deliver --tenant {TENANT} --destination orders --event-type invoice.paid --data -
  oneprotect attempts --tenant {TENANT}
Attempts appear here as they are recorded. Ctrl-C stops everything.""",
        highlight=False,
    )
