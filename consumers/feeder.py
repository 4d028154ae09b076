"""The feeder: brings work that was refused back as its destination drains.

Each destination's overflow is read through a consumer of its own, made on demand and gone when idle, so that nobody
stands behind another's flood. Any worker may feed; the server hands each message to one of them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from oneprotect.jetstream.connection import Connection
from oneprotect.jetstream.errors import SUBJECT_FULL, JetStreamError, Refused
from oneprotect.jetstream.publish import Publication, Publisher, without_batch
from oneprotect.jetstream.pull import Message, fetch
from schemas import subjects

INTERVAL_S: Final = 1.0
BATCH: Final = 100
IDLE_S: Final = 60

_NANOSECONDS: Final = 1_000_000_000
_log = structlog.get_logger(__name__)


class _Counts(msgspec.Struct, frozen=True):
    """Messages by subject, and how many of one subject the stream takes (-1: any number)."""

    subjects: dict[str, int]
    cap: int


class Feeder:
    """Moves messages from the overflow to the work stream while that takes them."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        *,
        is_closed: Callable[[str, str], bool] = lambda _tenant, _destination: False,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`is_closed`: whether a destination is left alone for now, so that there is no sense in feeding it."""
        self._connection = connection
        self._is_closed = is_closed
        self._publisher = publisher
        self._interval_s = interval_s
        self.moved = 0
        """Messages brought back so far."""

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop` is set."""
        while not stop.is_set():
            try:
                await self.feed()
            except JetStreamError as error:
                _log.warning("feeder.failed", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval_s)

    async def feed(self) -> None:
        """One round over all destinations that have overflowed."""
        overflowed = await self._counts(subjects.OVERFLOW, "oneprotect.delivery.overflow.*.*")
        if not overflowed.subjects:
            return
        due = await self._counts(subjects.WORK, "oneprotect.delivery.requested.*.*")
        for subject in overflowed.subjects:
            tenant, destination = subjects.tenant_and_destination(subject)
            room = due.cap - due.subjects.get(subjects.requested(tenant, destination), 0)
            if room > 0 and not self._is_closed(tenant, destination):
                await self._feed_one(tenant, destination, room)

    async def _counts(self, stream: subjects.Stream, pattern: str) -> "_Counts":
        info = await self._connection.api(f"STREAM.INFO.{stream.name}", {"subjects_filter": pattern})
        return _Counts(info["state"].get("subjects") or {}, int(info["config"]["max_msgs_per_subject"]))

    async def _feed_one(self, tenant: str, destination: str, room: int) -> None:
        """Move at most `room` messages, in their order."""
        consumer = await self._consumer(tenant, destination)
        while room > 0:
            batch = min(room, BATCH)
            messages = await fetch(self._connection, stream=subjects.OVERFLOW.name, consumer=consumer, batch=batch)
            refused = False
            for message in messages:
                refused = refused or not await self._moved(message, tenant, destination)
                if refused:  # another publisher was quicker; what comes after must not overtake
                    await message.nak()
            if refused or len(messages) < batch:
                return
            room -= batch

    async def _moved(self, message: Message, tenant: str, destination: str) -> bool:
        try:
            await self._publisher.publish(
                Publication(subjects.requested(tenant, destination), message.data, without_batch(message.headers))
            )
        except Refused as error:
            if error.err_code != SUBJECT_FULL:
                raise
            return False
        await message.ack()
        self.moved += 1
        return True

    async def _consumer(self, tenant: str, destination: str) -> str:
        name = f"feed_{tenant}_{destination}"
        filter_subject = subjects.overflow(tenant, destination)
        config = {
            "name": name,
            "filter_subject": filter_subject,
            "ack_policy": "explicit",
            "ack_wait": 30 * _NANOSECONDS,
            "max_ack_pending": BATCH,
            "inactive_threshold": IDLE_S * _NANOSECONDS,
        }
        await self._connection.api(
            f"CONSUMER.CREATE.{subjects.OVERFLOW.name}.{name}.{filter_subject}",
            {"stream_name": subjects.OVERFLOW.name, "config": config},
        )
        return name
