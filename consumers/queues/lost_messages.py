"""Messages that a shared consumer of NATS has lost: stored, but neither pending nor waiting for an acknowledgement.

The server never delivers them, and removes them when it restarts. A purge of a part of a stream with pending messages
has that effect (nats-server issue 5727). All lost messages are at or below the consumer's acknowledgement floor.

A lost message may still be in the hands of a worker, which settles it. The others are copied to the overflow, as load
shedding does, and deleted. The copy asks for a look at the results before it is sent.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct

from consumers.credentials.control_client import ask_all
from consumers.worker.load_shedding import overflow_copy_of
from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvTable
from messaging.publisher import JetStreamPublisher
from schemas import streams, subjects
from schemas.configuration import Destination
from schemas.control_messages import HandedOver, HeldMessages, HeldReply

READINGS: Final = 3
INTERVAL_S: Final = 1.0
"""Time between readings: the server's counts belong to different moments, and messages come and go."""
ASKED_AT_ONCE: Final = 1000
HANDED_OVER_S: Final = 30.0
"""Time for which an ordered queue may move lost messages. A later `recover` repeats it."""


class Recovery(Struct, frozen=True, kw_only=True):
    """The messages that a consumer had lost, by what became of them."""

    consumer: str
    lost: int
    in_hand: int
    """Left to the workers that still handle them."""
    recovered: int
    in_order: int
    """Left to the ordered queues of their destinations, which were woken."""


async def count_lost(connection: NatsConnection, consumer: streams.ConsumerConfig) -> int:
    """Return how many messages a consumer has lost: the smallest of three readings. Raises `JetStreamError`."""
    least = sys.maxsize
    for number in range(READINGS):
        if number:
            await asyncio.sleep(INTERVAL_S)
        least = min(least, await _count(connection, consumer))
        if least <= 0:
            return 0
    return least


async def _count(connection: NatsConnection, consumer: streams.ConsumerConfig) -> int:
    before = await management.consumer_info(connection, consumer.stream, consumer.name)
    stored = await management.stream_info(connection, consumer.stream, subjects=consumer.filter_subject)
    after = await management.consumer_info(connection, consumer.stream, consumer.name)
    known = max(info.num_pending + info.num_ack_pending for info in (before, after))
    return sum(stored.state.subjects.values()) - known


class LostMessages:
    """Brings back what the shared consumers have lost. Every method raises `JetStreamError`."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, destinations: KvBucket) -> None:
        self._connection = connection
        self._publisher = publisher
        self._destinations = KvTable(destinations, Destination)

    async def recover(self, consumer: streams.ConsumerConfig, *, dry_run: bool = False) -> Recovery:
        """Bring back what `consumer` has lost, unless a worker has it in hand. With `dry_run` change nothing."""
        lost = await self._find(consumer) if await count_lost(self._connection, consumer) else set[int]()
        held = await self._find_held(consumer.stream, lost)
        recovered, ordered = 0, dict[str, list[int]]()
        async for record in self._read(consumer, max(lost, default=0)):
            if record.sequence not in lost - held:
                continue
            if consumer.stream == streams.WORK.name and await self._is_ordered(record.subject):
                ordered.setdefault(record.subject, []).append(record.sequence)
                continue
            recovered += 1
            if not dry_run:
                await self._publisher.publish(overflow_copy_of(consumer.stream, record))
                await management.delete_message(self._connection, consumer.stream, record.sequence)
        if not dry_run:
            await self._hand_over(consumer, ordered)
        return Recovery(
            consumer=f"{consumer.stream}/{consumer.name}",
            lost=len(lost),
            in_hand=len(held),
            recovered=recovered,
            in_order=sum(map(len, ordered.values())),
        )

    async def _hand_over(self, consumer: streams.ConsumerConfig, ordered: dict[str, list[int]]) -> None:
        """Wake the ordered queues, and let them have what the server no longer delivers."""
        if not ordered:
            return
        info = await management.stream_info(self._connection, consumer.stream)
        until = info.ts + timedelta(seconds=HANDED_OVER_S)
        for subject, sequences in ordered.items():
            wake = subjects.line(*subjects.tenant_and_destination(subject), "wake")
            for part in _parts(sequences):
                self._connection.post(wake, msgspec.json.encode(HandedOver(sequences=part, until=until)))

    async def _find(self, consumer: streams.ConsumerConfig) -> set[int]:
        """Return the sequences at or below the acknowledgement floor, in three readings."""
        found: set[int] | None = None
        for number in range(READINGS):
            if number:
                await asyncio.sleep(INTERVAL_S)
            info = await management.consumer_info(self._connection, consumer.stream, consumer.name)
            seen = {record.sequence async for record in self._read(consumer, info.ack_floor.stream_seq)}
            found = seen if found is None else found & seen
        return found or set()

    async def _read(self, consumer: streams.ConsumerConfig, last: int) -> AsyncIterator[direct_get.StoredMessage]:
        async for record in direct_get.scan(self._connection, consumer.stream, consumer.filter_subject):
            if record.sequence > last:
                return
            yield record

    async def _find_held(self, stream: str, lost: set[int]) -> set[int]:
        held: set[int] = set()
        for part in _parts(sorted(lost)):
            request = HeldMessages(stream=stream, sequences=part)
            for reply in await ask_all(self._connection, subjects.HELD, request, HeldReply):
                held.update(reply.held)
        return held & lost

    async def _is_ordered(self, subject: str) -> bool:
        row = await self._destinations.get(subjects.lane_of(subject))
        return row is not None and row.value.ordering == "fifo"


def _parts(sequences: list[int]) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(sequences), ASKED_AT_ONCE):
        yield tuple(sequences[start : start + ASKED_AT_ONCE])
