"""The attempts on record: has this one been made before, and what is being recorded now."""

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
    """Knows the results on record."""

    async def find(self, delivery: DeliveryAttemptRequest) -> AttemptResult | None:
        """The recorded result of this very attempt, or None. Raises `JetStreamError` when that can't be known."""
        ...


class StreamAttemptLog:
    """The attempts stream, read without a consumer."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    async def find(self, delivery: DeliveryAttemptRequest) -> AttemptResult | None:
        """Look through what was recorded since the request was stored, on the delivery's own subject."""
        progress = delivery.progress
        found = None
        async for result in self._results(delivery):
            if (
                (result.attempt, result.replay) == (progress.attempt, progress.replay)
                and result.outcome is not Outcome.SUPPRESSED
            ):  # fmt: skip
                found = result  # the last one counts: an attempt that waited for its secret has several
        return found

    async def read_results(self, delivery: DeliveryAttemptRequest) -> list[AttemptResult]:
        """All results of the delivery since the request was stored, in their order. Raises `JetStreamError`."""
        return [result async for result in self._results(delivery)]

    async def _results(self, delivery: DeliveryAttemptRequest) -> AsyncIterator[AttemptResult]:
        subject = subjects.attempted(delivery.tenant, delivery.destination, delivery.id)
        since = delivery.since or delivery.message.stored_at
        async for record in direct_get.scan(self._connection, streams.ATTEMPTS.name, subject, since=since):
            try:
                result = decode_result(record.data).data
            except msgspec.DecodeError:
                continue
            if result.delivery == delivery.id:
                yield result


@contextlib.asynccontextmanager
async def follow(
    connection: NatsConnection, tenant: str = "*", destination: str = "*"
) -> AsyncGenerator[AsyncIterator[DeliveryAttempted]]:
    """Results as they are recorded, from the moment of entering on."""
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
        with contextlib.suppress(Exception):  # the client library, when the connection is going
            await subscription.unsubscribe()
