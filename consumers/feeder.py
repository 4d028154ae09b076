"""The feeder: brings work that was refused back as its destination drains.

Each destination's overflow is read through a consumer of its own, made on demand and gone when idle, so that nobody
stands behind another's flood. Any worker may feed; the server hands each message to one of them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from oneprotect.jetstream.connection import Connection
from oneprotect.jetstream.errors import SUBJECT_FULL, JetStreamError, Refused
from oneprotect.jetstream.publish import Publication, Publisher
from oneprotect.jetstream.pull import Message, fetch
from schemas import subjects

INTERVAL_S: Final = 1.0
BATCH: Final = 100
IDLE_S: Final = 60

_NANOSECONDS: Final = 1_000_000_000
_log = structlog.get_logger(__name__)


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
        request = {"subjects_filter": "oneprotect.delivery.overflow.*.*"}
        info = await self._connection.api(f"STREAM.INFO.{subjects.OVERFLOW.name}", request)
        overflowed: dict[str, int] = info["state"].get("subjects") or {}
        for subject in overflowed:
            tenant, destination = subjects.tenant_and_destination(subject)
            if not self._is_closed(tenant, destination):
                await self._feed_one(tenant, destination)

    async def _feed_one(self, tenant: str, destination: str) -> None:
        consumer = await self._consumer(tenant, destination)
        full = False
        while not full:
            messages = await fetch(self._connection, stream=subjects.OVERFLOW.name, consumer=consumer, batch=BATCH)
            for message in messages:
                full = full or not await self._moved(message, tenant, destination)
                if full:
                    await message.nak()
            if len(messages) < BATCH:
                return

    async def _moved(self, message: Message, tenant: str, destination: str) -> bool:
        try:
            await self._publisher.publish(
                Publication(subjects.requested(tenant, destination), message.data, message.headers)
            )
        except Refused as error:
            if error.err_code != SUBJECT_FULL:
                raise
            return False
        await message.ack()
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
