"""Messages that a shared consumer loses by a purge are noticed, and brought back without sending one twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from consumers.queues.lost_messages import READINGS, LostMessages, count_lost
from messaging import management
from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.message import Message
from messaging.pull_consumer import fetch
from oneprotect.doctor.backlog import check_work
from oneprotect.doctor.result import CheckStatus
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.control_messages import HeldMessages, HeldReply
from tests.component.conftest import RunHere
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

WORK = streams.WORK_CONSUMER


async def _lose(site: Site, destination: str) -> list[str]:
    """Let the consumer of the work stream lose ten deliveries, as a mover with a purge did, and return their ids."""
    ids = [await site.deliver(destination) for _ in range(10)]
    moved = await site.deliver("moved")
    later = [await site.deliver(destination) for _ in range(10)]
    got = await fetch(site.jetstream.connection, stream=WORK.stream, consumer=WORK.name, batch=21)
    [purged] = [message for message in got if message.subject == subjects.requested(TENANT, "moved")]
    request = {"filter": purged.subject, "seq": purged.sequence + 1}
    await site.jetstream.connection.api(f"STREAM.PURGE.{WORK.stream}", request)
    for message in got[11:]:
        message.ack()
    await until(lambda: _is_stored(site, 10))
    for message in got[:10]:
        message.nak()
    assert moved not in ids + later
    await until(lambda: _is_forgotten(site), 10)
    return ids


async def _is_forgotten(site: Site) -> bool:
    info = await management.consumer_info(site.jetstream.connection, WORK.stream, WORK.name)
    return info.num_ack_pending == 0


async def _is_stored(site: Site, count: int) -> bool:
    return len(await site.records(streams.WORK)) == count


async def _again(site: Site) -> list[Message]:
    return await fetch(site.jetstream.connection, stream=WORK.stream, consumer=WORK.name, batch=10)


async def test_lost_messages_are_noticed_and_delivered_once(
    site: Site, receiver: Scripted, oneprotect: RunHere
) -> None:
    """The doctor reports what a purge took from a consumer, and `oneprotect recover` brings it back."""
    await site.destination("orders", receiver.url)
    ids = await _lose(site, "orders")
    again = await _again(site)
    lost = await count_lost(site.jetstream.connection, WORK)
    checks = [check for check in await check_work(site.jetstream.connection) if "lost" in check.finding]
    planned = await oneprotect("recover", "--dry-run", "--json")
    done = await oneprotect("recover", "--json")
    nothing = await oneprotect("recover")
    async with site.consumer():
        await until(site.is_settled, 20)

    assert (again, lost) == ([], 10), "the server has lost them"
    assert [check.status for check in checks] == [CheckStatus.FAILED]
    assert [one["recovered"] for one in planned.json] == [one["recovered"] for one in done.json] == [10, 0]
    assert "No message is lost" in nothing.out
    assert sorted(receiver.ids()) == sorted(ids)
    assert {result.outcome for result in await site.results()} == {Outcome.DELIVERED}


async def test_a_lost_message_in_the_hands_of_a_consumer_is_left_to_it(site: Site, receiver: Scripted) -> None:
    """It was sent, or will be: a copy of it would be a second request."""
    await site.destination("orders", receiver.url)
    await _lose(site, "orders")
    connection = site.jetstream.connection
    held = [record.sequence for record in await site.records(streams.WORK)][:4]

    async def answer(incoming: IncomingMessage) -> None:
        asked = msgspec.json.decode(incoming.data, type=HeldMessages)
        reply = HeldReply(worker="w", held=tuple(set(asked.sequences) & set(held)))
        await connection.publish(incoming.reply, msgspec.json.encode(reply))

    await connection.subscribe(subjects.HELD, answer)
    recovery = await LostMessages(connection, site.jetstream.publisher, site.jetstream.destinations).recover(WORK)

    assert (recovery.lost, recovery.in_hand, recovery.recovered) == (10, 4, 6)
    assert [record.sequence for record in await site.records(streams.WORK)] == held


async def test_a_lost_message_in_flight_is_sent_once(site: Site, receiver: Scripted, oneprotect: RunHere) -> None:
    """The consumer that sends it is asked, and settles it."""
    receiver.hold = asyncio.Event()
    connection = site.jetstream.connection
    for name in ("orders", "moved"):
        await site.destination(name, receiver.url)
    async with Scripted() as other, site.consumer():
        await site.destination("later", other.url)
        ids = [await site.deliver("orders") for _ in range(5)]
        await until(lambda: len(receiver.seen) == 5, 20)
        moved = await site.deliver("moved")
        await until(lambda: len(receiver.seen) == 6, 20)
        held = [record.sequence for record in await site.records(streams.WORK)]
        request = {"filter": subjects.requested(TENANT, "moved"), "seq": held[-1] + 1}
        await connection.api(f"STREAM.PURGE.{WORK.stream}", request)
        await asyncio.gather(*(site.deliver("later") for _ in range(10)))
        await until(lambda: _is_stored(site, 5))
        for number, sequence in enumerate(held[:-1], 1):  # as if a mark came late; the server forgets them for it
            await connection.publish(f"$JS.ACK.{WORK.stream}.{WORK.name}.1.{sequence}.{number}.0.0", b"-NAK")
        await until(lambda: _is_forgotten(site), 10)
        ran = await oneprotect("recover", "--json")
        receiver.hold.set()
        await until(site.is_settled, 20)

    work = ran.json[0]
    assert (work["lost"], work["in_hand"], work["recovered"]) == (5, 5, 0)
    assert Counter(receiver.ids()) == Counter([*ids, moved])


class Between:
    """The requests of a connection, with something done before the reading with a number."""

    def __init__(self, connection: NatsConnection, number: int, action: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._left = 2 * number - 1
        self._action = action

    async def api(self, subject: str, request: Any = None) -> dict[str, Any]:
        """Pass a request on. Each reading begins and ends with a request for the consumer."""
        if subject.startswith("CONSUMER.INFO."):
            self._left -= 1
            if not self._left:
                await self._action()
        return await self._connection.api(subject, request)


@pytest.mark.parametrize("number", range(2, READINGS + 1))
async def test_what_is_settled_between_the_readings_is_not_lost(site: Site, number: int) -> None:
    """A count is a difference between two moments, so it takes three of them."""
    await _lose(site, "orders")

    async def settle() -> None:
        for record in await site.records(streams.WORK):
            await site.jetstream.publisher.remove(WORK.stream, record.sequence)

    between: Any = Between(site.jetstream.connection, number, settle)
    assert await count_lost(between, WORK) == 0


async def test_lost_messages_of_an_ordered_destination_keep_their_order(site: Site, receiver: Scripted) -> None:
    """Its queue reads the stream itself, so it only has to be woken."""
    await site.destination("orders", receiver.url, ordering="fifo")
    ids = await _lose(site, "orders")
    messages = LostMessages(site.jetstream.connection, site.jetstream.publisher, site.jetstream.destinations)
    async with site.consumer():
        recovery = await messages.recover(WORK)
        await until(site.is_settled, 20)

    assert (recovery.recovered, recovery.in_order) == (0, 10)
    assert receiver.ids() == ids


@pytest.mark.parametrize("consumer", streams.CONSUMERS, ids=lambda consumer: consumer.stream)
async def test_nothing_counts_as_lost_under_load(
    site: Site, receiver: Scripted, consumer: streams.ConsumerConfig
) -> None:
    """Deliveries that come and go between the readings are not lost."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url)

    async def produce() -> None:
        while True:
            await asyncio.gather(*(site.deliver("orders") for _ in range(10)))

    async with site.consumer():
        producing = asyncio.create_task(produce())
        try:
            lost = [await count_lost(site.jetstream.connection, consumer) for _ in range(3)]
        finally:
            producing.cancel()

    assert lost == [0, 0, 0]
