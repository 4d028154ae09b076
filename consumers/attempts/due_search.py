"""Searches for the due retries of a delivery. Those for one destination share a reading.

Thousands of retries of a destination can be due at once, and each that asks for a look searches all of them. So a
search joins the next reading, which begins when the one before has ended.
"""

import asyncio
from datetime import datetime
from typing import Final

from consumers.attempts import leader_reads
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from schemas import streams
from schemas.events import decode_request
from schemas.headers import HEADER_SCHEDULER

MAX_DUE: Final = 65_536
"""Due messages of a destination that are read at most."""

_Found = dict[str, list[StoredMessage]]


class _Reading:
    """A reading that has not begun."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self.deliveries: set[str] = set()
        self.task: asyncio.Task[_Found]


class DueSearch:
    """Finds due retries by delivery."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._next: dict[str, _Reading] = {}
        self._current: dict[str, asyncio.Task[_Found]] = {}

    async def find(self, subject: str, delivery: str, since: datetime) -> list[StoredMessage]:
        """Return what is due of a delivery, stored since a time, on a subject. Raises `JetStreamError`."""
        reading = self._next.get(subject)
        if reading is None:
            reading = self._next[subject] = _Reading(since)
            reading.task = asyncio.create_task(self._read(subject, reading, self._current.get(subject)))
        reading.deliveries.add(delivery)
        reading.since = min(reading.since, since)
        found = await asyncio.shield(reading.task)
        return found.get(delivery, [])

    async def _read(self, subject: str, reading: _Reading, before: asyncio.Task[_Found] | None) -> _Found:
        if before is not None:
            await asyncio.wait([before])
        self._current[subject] = reading.task
        del self._next[subject]  # further searches wait for the next one
        found: _Found = {}
        read = 0
        try:
            async for record in leader_reads.scan_since(self._connection, streams.RETRIES.name, subject, reading.since):
                delivery = _delivery_of(record)
                if delivery in reading.deliveries:
                    found.setdefault(delivery, []).append(record)
                read += 1
                if read == MAX_DUE:
                    break
        finally:
            del self._current[subject]
        return found


def _delivery_of(record: StoredMessage) -> str:
    """Return the delivery of a due message: its schedule names it, unless it came from the quarantine."""
    scheduler = record.headers.get(HEADER_SCHEDULER)
    if scheduler:
        return scheduler.rpartition(".")[2]
    try:
        return decode_request(record.data).id
    except ValueError:
        return ""
