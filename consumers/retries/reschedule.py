"""Waiting deliveries, made due at once: a pending retry by a command, and the rest when their secret becomes available.

A waiting delivery is a schedule in the server. It is made due as the server would do it, if the schedule seen is still
there. A schedule that is about to fire is left to the server, which may be at it: two due messages would be sent at
once. So no delivery is started twice. The head of an ordered queue has no schedule: a message to the holder of the
queue's lease makes it due.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Final

from consumers.destinations.destination_index import DestinationIndex
from consumers.retries.server_clock import ServerClock
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable, WriteConflict
from messaging.kv import EXPECTED_REVISION, EXPECTED_SUBJECT
from messaging.publication import Publication
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.events import decode_request
from schemas.headers import (
    HEADER_SCHEDULE_NEXT,
    HEADER_SCHEDULER,
    HEADER_SECRET_WAITS,
    portable_headers,
    schedule_time,
)

BATCH_SIZE: Final = 64
"""Schedules that are replaced at a time."""
IMMINENT: Final = timedelta(seconds=2)
"""A schedule that fires so soon, or has not fired yet, is the server's."""
HOLDER_TIMEOUT_S: Final = 2.0
"""Time for the holder of an ordered queue to reply. The server reports at once when there is none."""
RESUMED_PER_S: Final = 320
"""Deliveries of a tenant that are resumed in a second: what is due at once holds up the retries of others."""


class RetryNow:
    """Makes a pending retry due at once. A delivery in flight, or settled, is left alone."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._clock = ServerClock(connection)

    async def retry(self, tenant: str, delivery: str, *, destination: str = "*") -> tuple[str, ...]:
        """Make the pending retries of `delivery` due, and return their destinations. Raises `JetStreamError`.

        The attempt keeps its number, so the retry schedule continues as if its time had come.
        """
        pattern = subjects.scheduled(tenant, destination, delivery)
        await self._clock.measure()
        scheduled: dict[str, None] = {}
        async for record in direct_get.scan_last(self._connection, streams.RETRIES.name, pattern):
            if _is_imminent(record, self._clock.now()) or await fire(self._publisher, record):
                scheduled[subjects.destination_scheduled(record.subject)] = None
        return *scheduled, *await self._retry_heads(tenant, delivery, destination)

    async def _retry_heads(self, tenant: str, delivery: str, destination: str) -> tuple[str, ...]:
        """Make the delivery due in each ordered queue that it is the head of, and return their destinations."""
        pattern = subjects.ordered(tenant, destination)
        info = await management.stream_info(self._connection, streams.ORDERED.name, subjects=pattern)
        destinations: list[str] = []
        for subject in info.state.subjects:
            first, _ = await direct_get.read_batch(
                self._connection, streams.ORDERED.name, subject, first_sequence=1, size=1
            )
            if [_delivery_id(record) for record in first] == [delivery]:
                destinations.append(subjects.tenant_and_destination(subject)[1])
                await self._call_holder(subjects.line(tenant, destinations[-1], "now"))
        return tuple(destinations)

    async def _call_holder(self, subject: str) -> None:
        try:
            await self._connection.ask(subject, timeout_s=HOLDER_TIMEOUT_S)
        except ServerUnavailable:
            problem = "no consumer has this delivery's ordered queue at the moment; try again in a few seconds"
            raise ServerUnavailable(problem) from None


class WaitingDeliveryResumer:
    """Makes the deliveries due that wait for a secret."""

    def __init__(
        self,
        connection: NatsConnection,
        publisher: JetStreamPublisher,
        destinations: DestinationIndex,
        clock: ServerClock,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._destinations = destinations
        self._clock = clock

    async def resume(self, tenant: str, credential: str) -> int:
        """Make the deliveries due that wait for this credential's secret now. Returns their number."""
        users = await self._destinations.users(tenant, credential)
        if not users:
            return 0
        for name, destination in users.items():
            if destination.ordering == "fifo":
                await self._connection.publish(subjects.line(tenant, name, "now"), subjects.SECRET_IS_THERE)
        last_sequence = (await self._clock.measure()).state.last_seq
        resumed = 0
        waiting: list[direct_get.StoredMessage] = []
        # Several destinations are read at once: the server finds rare subjects by searching the stream.
        pattern = subjects.scheduled(tenant, next(iter(users)) if len(users) == 1 else "*", "*")
        async for record in direct_get.scan(self._connection, streams.RETRIES.name, pattern):
            if record.sequence > last_sequence:  # it waits again, for whatever reason
                break
            if HEADER_SECRET_WAITS in record.headers and subjects.destination_scheduled(record.subject) in users:
                waiting.append(record)
            if len(waiting) == BATCH_SIZE:
                resumed += await self._reschedule(waiting)
                waiting.clear()
        return resumed + await self._reschedule(waiting)

    async def _reschedule(self, waiting: list[direct_get.StoredMessage]) -> int:
        now = self._clock.now()
        due = [record for record in waiting if not _is_imminent(record, now)]
        fired = sum(await asyncio.gather(*(fire(self._publisher, record) for record in due)))
        await asyncio.sleep(fired / RESUMED_PER_S)
        return fired


def _is_imminent(scheduled: direct_get.StoredMessage, now: datetime) -> bool:
    at = schedule_time(scheduled.headers)
    return at is not None and at < now + IMMINENT


async def fire(publisher: JetStreamPublisher, scheduled: direct_get.StoredMessage) -> bool:
    """Make a scheduled message due, as the server does at its time. Returns False if it is no longer scheduled.

    The server stores the due message and removes the schedule together (ADR-51), and only if the schedule seen is
    still the last one. No clock and no timer has a part in it.
    """
    tenant, destination = scheduled.subject.split(".")[3:5]
    headers = portable_headers(scheduled.headers) | {
        HEADER_SCHEDULER: scheduled.subject,
        HEADER_SCHEDULE_NEXT: "purge",
        EXPECTED_REVISION: str(scheduled.sequence),
        EXPECTED_SUBJECT: scheduled.subject,
    }
    try:
        await publisher.publish(Publication(subjects.due(tenant, destination), scheduled.data, headers))
    except WriteConflict:
        return False
    return True


def _delivery_id(record: direct_get.StoredMessage) -> str | None:
    try:
        return decode_request(record.data).id
    except ValueError:
        return None
