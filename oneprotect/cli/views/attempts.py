"""Attempts on a terminal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from rich.text import Text

from consumers.attempts.log import follow
from consumers.attempts.search import AttemptFilter, read_newest
from messaging.client.connection import NatsConnection
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.cli.support.output import print_notice, write_json, write_line
from schemas.codes import Outcome
from schemas.events import AttemptResult, DeliveryAttempted

STYLES: Final = {
    Outcome.DELIVERED: "green",
    Outcome.RETRY_SCHEDULED: "yellow",
    Outcome.FAILED: "red",
    Outcome.SKIPPED: "magenta",
    Outcome.SUPPRESSED: "cyan",
}


def format_attempt(result: AttemptResult) -> Text:
    """Return a line with the time, delivery, attempt, outcome, code, duration and time of the next attempt."""
    line = Text()
    line.append(f"{result.started_at:%H:%M:%S} ", "dim")
    line.append(f"{result.destination:<12} {result.delivery} #{result.attempt} ")
    line.append(f"{result.outcome.value:<15} ", STYLES[result.outcome])
    line.append(f"{result.code.value:<18} {result.duration_ms:>8.1f} ms")
    if result.next_attempt_at:
        line.append(f"  next {result.next_attempt_at:%H:%M:%S}", "dim")
    if "previous" in result.signed_with:
        line.append("  rollover", "dim")
    return line


class AttemptList:
    """The stored attempts that match a filter, and new ones as consumers store them."""

    def __init__(self, connection: NatsConnection, chosen: AttemptFilter, *, limit: int, as_json: bool) -> None:
        self._connection = connection
        self._chosen = chosen
        self._limit = limit
        self._as_json = as_json

    async def write(self) -> None:
        """Write the newest stored attempts, oldest first."""
        if not await self._write_stored() and not self._as_json:
            print_notice("no stored attempt matches; check the names of the tenant and the destination")

    async def follow(self) -> None:
        """Write the newest stored attempts, then each new one, until SIGINT or SIGTERM."""
        stop = stop_on_signals()
        async with follow(self._connection, self._chosen.tenant or "*", self._chosen.destination or "*") as events:
            written = await self._write_stored()
            following = asyncio.create_task(self._write_new(events, written))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if following.done():
                following.result()
            following.cancel()

    async def _write_stored(self) -> set[tuple[str, str, str]]:
        stored = await read_newest(self._connection, self._chosen, limit=self._limit)
        for recorded in reversed(stored):
            self._write(recorded.event)
        return {_identify(recorded.event) for recorded in stored}

    async def _write_new(self, events: AsyncIterator[DeliveryAttempted], written: set[tuple[str, str, str]]) -> None:
        async for event in events:
            # An attempt that is stored while the stored ones are read is in both.
            if self._chosen.matches(event) and _identify(event) not in written:
                self._write(event)

    def _write(self, event: DeliveryAttempted) -> None:
        if self._as_json:
            write_json({"tenant": event.tenant} | msgspec.structs.asdict(event.data))
        elif self._chosen.tenant is None:
            write_line(Text.assemble(f"{event.tenant:<12} ", format_attempt(event.data)))
        else:
            write_line(format_attempt(event.data))


def _identify(event: DeliveryAttempted) -> tuple[str, str, str]:
    return event.tenant, event.data.destination, event.id
