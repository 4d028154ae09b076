"""Overdue schedules: retries whose time has passed without the server having fired them.

A server whose JetStream is off, because its disk is full for example, fires nothing, and may not make up for it later.
So each consumer reads the schedules round and round, a share of its time, and makes the overdue ones due itself. The
server does so for one consumer only, and only if the schedule is still there. A server that has just come back fires
what it missed by itself, and two due messages of one retry would be sent at once. So nothing is fired in the first
`OVERDUE_S`. Later the server may still fire a schedule, so the retry looks for results before it is sent.
"""

import asyncio
import random
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from consumers.retries.reschedule import fire
from consumers.retries.server_clock import ServerClock
from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.periodic import run_every
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.headers import HEADER_SINCE, schedule_time

OVERDUE_S: Final = 15.0
"""A schedule fires within a second of its time, so a later one has been forgotten."""
ROUND_S: Final = 5.0
READING_SHARE: Final = 0.05
"""Share of the time for which schedules are read while none is overdue."""

_ALL: Final = subjects.scheduled("*", "*", "*")
_log = structlog.get_logger(__name__)


class OverdueSchedules:
    """Finds and fires overdue schedules."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        clock: ServerClock,
        *,
        overdue_s: float = OVERDUE_S,
        patience_s: float = OVERDUE_S,
        interval_s: float = ROUND_S,
    ) -> None:
        """Create a finder.

        Args:
            overdue_s: The age of a due schedule that the server has not fired.
            patience_s: Time that the server has to fire what is overdue.
        """
        self._connection = connection
        self._publisher = publisher
        self._clock = clock
        self._overdue_s = overdue_s
        self._patience_s = patience_s
        self._found_at: float | None = None
        """Loop time at which the first overdue schedule was found, since a reading found none."""
        self._interval_s = interval_s
        self._next = 0
        """The sequence at which the next round begins to read."""
        self._found = 0
        self.overdue = 0
        """Overdue schedules that the last reading of all schedules found."""

    async def run(self, stop: asyncio.Event) -> None:
        """Look for overdue schedules until `stop` is set."""
        await run_every(self._interval_s, lambda: self._round(stop), stop, failure_event="overdue.failed", jitter=0.2)

    async def _round(self, stop: asyncio.Event) -> None:
        """Read a part of the schedules, and more as long as some are overdue. Raises `JetStreamError`."""
        state = (await self._clock.measure()).state
        if not self._next:  # several consumers begin at different places
            self._next = random.randint(state.first_seq, max(state.first_seq, state.last_seq))  # noqa: S311
        loop = asyncio.get_running_loop()
        until = loop.time() + READING_SHARE * self._interval_s
        while state.messages and not stop.is_set():
            records, has_more = await direct_get.read_batch(
                self._connection, streams.RETRIES.name, _ALL, first_sequence=self._next, size=direct_get.BATCH
            )
            fired = await self._fire_overdue(records)
            if not (records and has_more):
                self._next, self.overdue, self._found = 1, self._found, 0
                if not self.overdue:
                    self._found_at = None
                return
            self._next = records[-1].sequence + 1
            if not fired and loop.time() >= until:
                return

    async def _fire_overdue(self, records: list[StoredMessage]) -> int:
        latest = self._clock.now() - timedelta(seconds=self._overdue_s)
        overdue = [record for record in records if (at := schedule_time(record.headers)) and at < latest]
        self._found += len(overdue)
        if not overdue:
            return 0
        now = asyncio.get_running_loop().time()
        if self._found_at is None:
            self._found_at = now
        if now - self._found_at < self._patience_s:
            return 0
        fired = sum(await asyncio.gather(*(fire(self._publisher, _in_doubt(record)) for record in overdue)))
        if fired:
            _log.warning("overdue.fired", schedules=fired)
        return fired


def _in_doubt(record: StoredMessage) -> StoredMessage:
    return msgspec.structs.replace(record, headers={HEADER_SINCE: record.stored_at.isoformat()} | record.headers)
