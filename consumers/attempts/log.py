"""The attempt log: recorded results, and results as they are recorded."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

import msgspec

from consumers.model.request import DeliveryAttemptRequest
from messaging import direct_get
from messaging.client.connection import IncomingMessage, NatsConnection
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.events import AttemptResult, DeliveryAttempted, decode_result


class AttemptLog(Protocol):
    """Recorded results."""

    async def find(self, delivery: DeliveryAttemptRequest) -> AttemptResult | None:
        """Return the recorded result of this attempt, or None. Raises `JetStreamError`."""
        ...


class StreamAttemptLog:
    """The attempts stream, read without a consumer."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    async def find(self, delivery: DeliveryAttemptRequest) -> AttemptResult | None:
        """Return the last result of this attempt since the request was stored, or None. Raises `JetStreamError`."""
        wanted = delivery.retry_state.attempt, delivery.retry_state.replay
        found = None
        for result in await self.read_results(delivery):
            if (result.attempt, result.replay) == wanted and result.outcome is not Outcome.SUPPRESSED:
                found = result  # an attempt that waited for its secret has several
        return found

    async def read_results(self, delivery: DeliveryAttemptRequest) -> list[AttemptResult]:
        """Return all results of the delivery since the request was stored, in order. Raises `JetStreamError`."""
        results: list[AttemptResult] = []
        subject = subjects.attempted(delivery.tenant, delivery.destination, delivery.id)
        since = delivery.since or delivery.message.stored_at
        async for record in direct_get.scan(self._connection, streams.ATTEMPTS.name, subject, since=since):
            with contextlib.suppress(msgspec.DecodeError):
                result = decode_result(record.data).data
                if result.delivery == delivery.id:
                    results.append(result)
        return results


@contextlib.asynccontextmanager
async def follow(
    connection: NatsConnection, tenant: str = "*", destination: str = "*"
) -> AsyncGenerator[AsyncIterator[DeliveryAttempted]]:
    """Yield an iterator over results as they are recorded, from now on."""
    arrived: asyncio.Queue[DeliveryAttempted] = asyncio.Queue()

    async def receive(incoming: IncomingMessage) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            arrived.put_nowait(decode_result(incoming.data))

    async def results() -> AsyncIterator[DeliveryAttempted]:
        while True:
            yield await arrived.get()

    subscription = await connection.subscribe(subjects.attempted(tenant, destination, "*"), receive)
    await connection.flush()
    try:
        yield results()
    finally:
        with contextlib.suppress(Exception):  # the client library, while the connection closes
            await subscription.unsubscribe()
