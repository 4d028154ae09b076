"""The attempt log: recorded results, and results as they are recorded."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import timedelta
from typing import Final, Protocol

import msgspec

from consumers.attempts import leader_reads
from consumers.attempts.delivery_index import DeliveryIndexes
from consumers.model.request import DeliveryAttemptRequest, RetryState
from messaging import direct_get
from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.tenant_turns import FairTurns
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.events import AttemptResult, DeliveryAttempted, decode_request, decode_result
from schemas.headers import HEADER_ATTEMPT, HEADER_MSG_ID, HEADER_ORIGINAL, HEADER_REPLAY

LOOKS_OF_TENANT: Final = 16
"""Looks of one tenant at a time: those of others find the leaders free."""
_SHED: Final = (streams.WORK.name, streams.RETRIES.name)
"""The streams whose messages may have a copy in the overflow."""
_SKEW: Final = timedelta(seconds=2)
"""Two streams may be led by two servers, whose clocks differ a little."""


class DeliveryHistory(msgspec.Struct, frozen=True):
    """The content of the streams about a delivery since its request was stored."""

    results: list[AttemptResult]
    """All but those of earlier waits of this attempt for its secret."""
    schedule: direct_get.StoredMessage | None = None
    """The message that waits for the time of the next attempt."""
    is_superseded: bool = False
    """True if a newer message of the delivery waits or is due, or a later attempt is recorded."""
    is_kept: bool = False
    """True if the failed delivery is retained with this attempt."""

    @property
    def schedule_sequence(self) -> int:
        """The sequence that a new schedule must replace; 0 if none waits."""
        return self.schedule.sequence if self.schedule else 0


class AttemptLog(Protocol):
    """Recorded results, and the messages that wait for an attempt."""

    async def read_history(self, delivery: DeliveryAttemptRequest) -> DeliveryHistory:
        """Return what the leaders of the streams have of a delivery. Raises `JetStreamError`."""
        ...

    async def has_original(self, delivery: DeliveryAttemptRequest) -> bool:
        """Return whether the message that `delivery` is a copy of is still there. Raises `JetStreamError`."""
        ...


class StreamAttemptLog:
    """The streams of results, retries and failed deliveries, read without a consumer."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._indexes = DeliveryIndexes(connection)
        self._turns = FairTurns(per_tenant=LOOKS_OF_TENANT)

    async def read_history(self, delivery: DeliveryAttemptRequest) -> DeliveryHistory:
        """Return what the leaders of the streams have of a delivery. Raises `JetStreamError`.

        A message is stored in the next place before it leaves the one before: it is scheduled, then due, and then its
        result is recorded. A search in that order misses nothing that moves once. A delivery that is deferred goes
        round, so when the next attempt seems to be missing, the search is repeated.
        """
        async with self._turns.turn(delivery.tenant):
            return await self._read_history(delivery)

    async def _read_history(self, delivery: DeliveryAttemptRequest) -> DeliveryHistory:
        history = await self._read(delivery)
        result = result_of(history.results, delivery.retry_state)
        if result is None or history.is_superseded:
            return history
        match result.outcome:
            case Outcome.RETRY_SCHEDULED:
                return await self._read(delivery)
            case Outcome.FAILED | Outcome.SKIPPED:
                return msgspec.structs.replace(history, is_kept=await self._is_kept(delivery, result.attempt))
            case _:
                return history

    async def has_original(self, delivery: DeliveryAttemptRequest) -> bool:
        """Return whether the message that `delivery` is a copy of is still there. Raises `JetStreamError`."""
        stream, _, sequence = delivery.message.headers.get(HEADER_ORIGINAL, "").rpartition(".")
        if stream not in _SHED or not (sequence.isascii() and sequence.isdigit() and len(sequence) < 19):
            return False
        async with self._turns.turn(delivery.tenant):
            original = await leader_reads.get(self._connection, stream, int(sequence))
        return original is not None and _is_of(original, delivery)

    async def _read(self, delivery: DeliveryAttemptRequest) -> DeliveryHistory:
        schedule, is_newer = await self._read_schedule(delivery)
        if not is_newer:
            due = self._find(streams.RETRIES, subjects.due(delivery.tenant, delivery.destination), delivery)
            is_newer = any([_is_newer(record, delivery) async for record in due])
        if not is_newer:  # what was due at first, and was deferred, is scheduled again
            schedule, is_newer = await self._read_schedule(delivery)
        found = await self._read_results(delivery)
        results = [result for record, result in found if not _is_of_earlier_wait(record, result, delivery)]
        is_newer = is_newer or any(_is_later(result, delivery.retry_state) for result in results)
        return DeliveryHistory(results, schedule, is_newer)

    async def _read_schedule(self, delivery: DeliveryAttemptRequest) -> tuple[direct_get.StoredMessage | None, bool]:
        """Return the message that waits for its time, and whether it is a newer one."""
        subject = subjects.scheduled(delivery.tenant, delivery.destination, delivery.id)
        schedule = await leader_reads.get_last(self._connection, streams.RETRIES.name, subject)
        return schedule, schedule is not None and _is_newer(schedule, delivery)

    async def read_results(self, delivery: DeliveryAttemptRequest) -> list[AttemptResult]:
        """Return the results of the delivery since the request was stored, in order, but none that is `suppressed`.

        Raises `JetStreamError`.
        """
        async with self._turns.turn(delivery.tenant):
            return [result for _, result in await self._read_results(delivery)]

    async def _read_results(
        self, delivery: DeliveryAttemptRequest
    ) -> list[tuple[direct_get.StoredMessage, AttemptResult]]:
        subject = subjects.attempted(delivery.tenant, delivery.destination, delivery.id)
        found = self._find(streams.ATTEMPTS, subject, delivery)
        return [(record, decode_result(record.data).data) async for record in found]

    async def _is_kept(self, delivery: DeliveryAttemptRequest, attempt: int) -> bool:
        subject = subjects.failed(delivery.tenant, delivery.destination, delivery.id)
        wanted = str(attempt), delivery.retry_state.replay
        found = self._find(streams.FAILED, subject, delivery)
        kept = [(one.headers.get(HEADER_ATTEMPT, "1"), one.headers.get(HEADER_REPLAY)) async for one in found]
        return wanted in kept

    def _find(
        self, stream: streams.StreamConfig, subject: str, delivery: DeliveryAttemptRequest
    ) -> AsyncIterator[direct_get.StoredMessage]:
        return self._indexes.read(stream.name, subject, delivery.id, delivery.recorded_since - _SKEW)


def result_of(results: Iterable[AttemptResult], state: RetryState) -> AttemptResult | None:
    """Return the recorded result of the attempt that `state` begins, or None.

    An attempt that waited for its secret has several results, of which the last one counts. `delivered` is final, also
    when it was recorded late: for an attempt that another consumer had recorded as failed.
    """
    found = None
    for result in results:
        if result.replay != state.replay or result.outcome is Outcome.SUPPRESSED or result.attempt > state.attempt:
            continue
        if result.outcome is Outcome.DELIVERED:
            return result
        if result.attempt == state.attempt:
            found = result
    return found


def _is_of_earlier_wait(
    record: direct_get.StoredMessage, result: AttemptResult, delivery: DeliveryAttemptRequest
) -> bool:
    """Return whether a result says that this attempt began a wait for its secret, and that wait is over.

    The attempt keeps its number, so only the id of the record differs from one wait to the next.
    """
    state = delivery.retry_state
    is_wait = result.outcome is Outcome.RETRY_SCHEDULED and result.code.startswith("secret.")
    if not (state.secret_waits and is_wait and (result.attempt, result.replay) == (state.attempt, state.replay)):
        return False
    first = msgspec.structs.replace(state, secret_waits=0, deferrals=0).msg_id(delivery.request_id)
    waits = record.headers.get(HEADER_MSG_ID, "").removeprefix(f"{first}.w").partition(".")[0]
    return not waits.isdigit() or int(waits) < state.secret_waits


def _is_later(result: AttemptResult, state: RetryState) -> bool:
    is_other = result.replay != state.replay or result.outcome is Outcome.SUPPRESSED
    return not is_other and result.attempt > state.attempt


def _is_newer(record: direct_get.StoredMessage, delivery: DeliveryAttemptRequest) -> bool:
    try:
        return RetryState.from_headers(record.headers).progress > delivery.retry_state.progress
    except ValueError:  # it will be quarantined when it is handled
        return False


def _is_of(record: direct_get.StoredMessage, delivery: DeliveryAttemptRequest) -> bool:
    return subjects.lane_of(record.subject) == delivery.message.lane and _delivery_id(record) == delivery.id


def _delivery_id(record: direct_get.StoredMessage) -> str | None:
    try:
        return decode_request(record.data).id
    except ValueError:
        return None


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
