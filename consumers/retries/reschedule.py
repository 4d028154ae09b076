"""Deliveries that wait for a secret go on at once when it is there.

They are schedules in the server, so going on is a newer schedule for "now" on the same subject. It is stored only if
the one that was seen is still the last: a delivery that has been fired in between is not fired twice. The head of a
line is no schedule: whoever has the line is told.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import WriteConflict
from messaging.kv import EXPECTED_REVISION, KvBucket, KvTable
from messaging.publisher import JetStreamPublisher, Publication
from schemas import subjects
from schemas.configuration import Destination
from schemas.events import decode_request
from schemas.headers import portable_headers

AT_ONCE: Final = 64
"""How many schedules are replaced at a time."""


class RetryNow:
    """Makes a pending retry due at once: `oneprotect retry`. What is in flight, or settled, is left alone."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def retry(self, tenant: str, delivery: str, *, destination: str = "*") -> tuple[str, ...]:
        """Replace what is scheduled of `delivery` by "now", and return to which destinations it goes.

        The attempt keeps its number, so the schedule goes on from it as if its time had come. Raises `JetStreamError`.
        """
        pattern = subjects.scheduled(tenant, destination, delivery)
        records = await direct_get.newest_of_each(self._connection, subjects.RETRIES.name, [pattern])
        hurried = [record for record in records if await reschedule_now(self._publisher, record)]
        scheduled = tuple(subjects.destination_scheduled(record.subject) for record in hurried)
        return scheduled + await self._call_heads(tenant, delivery, destination)

    async def _call_heads(self, tenant: str, delivery: str, destination: str) -> tuple[str, ...]:
        """Tell each line of which the delivery is the head that it need not wait. To which destinations those are."""
        pattern = subjects.ordered(tenant, destination)
        info = await management.stream_info(self._connection, subjects.ORDERED.name, subjects=pattern)
        called: list[str] = []
        for subject in info.state.subjects:
            first, _ = await direct_get.batch(
                self._connection, subjects.ORDERED.name, subject, first_sequence=1, size=1
            )
            if [_id_of(record) for record in first] == [delivery]:
                called.append(subjects.tenant_and_destination(subject)[1])
                await self._connection.publish(subjects.line(tenant, called[-1], "now"))
        return tuple(called)


class WaitingDeliveryResumer:
    """Fires the waiting schedules of a credential's destinations."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, destinations: KvBucket) -> None:
        self._connection = connection
        self._publisher = publisher
        self._destinations = KvTable(destinations, Destination)

    async def resume(self, tenant: str, credential: str) -> int:
        """Let what waits for this credential's secret go on. Returns how many deliveries that was."""
        resumed = 0
        for row in await self._destinations.list(f"{tenant}.*"):
            if row.value.credential == credential:
                await self._connection.publish(subjects.line(tenant, row.id, "now"), subjects.SECRET_IS_THERE)
                resumed += await self._resume_destination(tenant, row.id)
        return resumed

    async def _resume_destination(self, tenant: str, destination: str) -> int:
        resumed = 0
        waiting: list[direct_get.StoredMessage] = []
        async for record in direct_get.scan(
            self._connection, subjects.RETRIES.name, subjects.scheduled(tenant, destination, "*")
        ):
            if subjects.HEADER_SECRET_WAITS in record.headers:
                waiting.append(record)
            if len(waiting) == AT_ONCE:
                resumed += await self._fire(waiting)
                waiting.clear()
        return resumed + await self._fire(waiting)

    async def _fire(self, waiting: list[direct_get.StoredMessage]) -> int:
        return sum(await asyncio.gather(*(reschedule_now(self._publisher, record) for record in waiting)))


async def reschedule_now(publisher: JetStreamPublisher, scheduled: direct_get.StoredMessage) -> bool:
    """Replace a schedule by one for now. False when it has fired, or was replaced, in between."""
    headers = portable_headers(scheduled.headers) | {
        subjects.HEADER_SCHEDULE: f"@at {datetime.now(UTC).isoformat().replace('+00:00', 'Z')}",
        subjects.HEADER_SCHEDULE_TARGET: scheduled.headers[subjects.HEADER_SCHEDULE_TARGET],
        EXPECTED_REVISION: str(scheduled.sequence),
    }
    try:
        await publisher.publish(Publication(scheduled.subject, scheduled.data, headers))
    except WriteConflict:
        return False
    return True


def _id_of(record: direct_get.StoredMessage) -> str | None:
    try:
        return decode_request(record.data).id
    except ValueError:
        return None
