"""Terms: a consumer that was paused or cut off starts nothing that another consumer may have."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

from consumers.worker.progress_marks import ProgressMarks
from messaging.client.term import Term, clock
from messaging.message import Message
from messaging.pull_consumer import fetch
from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas import streams
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from tests.component.worker.stalling import StallingProxy
from tests.support.ops import Ops
from tests.support.receiver import Answer, Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

WAITING = 40
"""Deliveries that one consumer gets before another one starts."""


def _pause(consumer: Process) -> None:
    consumer.process.send_signal(signal.SIGSTOP)


def _resume(consumer: Process) -> None:
    consumer.process.send_signal(signal.SIGCONT)


async def _unread(site: Site) -> int:
    """Return the number of due deliveries that no consumer has."""
    return int((await site.jetstream.connection.api("CONSUMER.INFO.ONEPROTECT_WORK.delivery"))["num_pending"])


async def _is_read(site: Site) -> bool:
    return await _unread(site) == 0


def _sent_twice(receiver: Scripted) -> set[str]:
    return {delivery for delivery, count in Counter(receiver.ids()).items() if count > 1}


async def test_a_paused_consumer_sends_nothing_that_it_held(site: Site, receiver: Scripted) -> None:
    """Another consumer delivers what waited. After the pause, only requests that were in flight were sent twice.

    The server drops the second result of each. These attempts are counted and logged, with the ids.
    """
    ops, receiver.hold = Ops(free_port()), asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=4, timeout_s=30)
    async with site.consumer_process(environ={"ONEPROTECT_OPS_PORT": str(ops.port)}) as paused:
        deliveries = [await site.deliver("orders") for _ in range(WAITING)]
        await until(lambda: len(receiver.seen) == 4, 20)
        await until(lambda: _is_read(site))
        _pause(paused)
        in_flight = set(receiver.ids())
        receiver.hold.set()
        async with site.consumer_process():
            await until(lambda: set(receiver.ids()) == set(deliveries) and _sent_twice(receiver) == in_flight, 30)
            _resume(paused)
            await until(lambda: paused.says("terms.expired"), 10)
            await until(site.is_settled, 20)
            await until(lambda: _logged(paused, "attempt.repeated") == in_flight, 10)
            counted = await ops.value("oneprotect_repeated_attempts_total")

    assert _sent_twice(receiver) == in_flight
    assert len(receiver.seen) == WAITING + 4
    assert counted == 4


def _logged(consumer: Process, event: str) -> set[str]:
    """Return the deliveries that a consumer has logged with an event."""
    lines = [json.loads(line) for line in consumer.output.splitlines(keepends=True) if line.endswith(b"\n")]
    return {line["delivery"] for line in lines if line["event"] == event}


async def test_a_message_that_waited_in_the_socket_is_not_fresh(site: Site, receiver: Scripted) -> None:
    """The server gives messages to a paused consumer, and later to another one. The first drops them on waking."""
    loop = asyncio.get_running_loop()
    await site.destination("orders", receiver.url)
    async with site.consumer_process() as paused:
        warm = await site.deliver("orders")
        await until(site.is_settled, 20)
        _pause(paused)
        paused_at = loop.time()
        deliveries = [await site.deliver("orders") for _ in range(10)]
        await until(lambda: _is_read(site))
        receiver.hold = asyncio.Event()
        async with site.consumer_process():
            await until(lambda: len(receiver.seen) == 9, 30)  # eight in flight: nothing is recorded of them
            await until(lambda: loop.time() > paused_at + 3)
            _resume(paused)
            await until(lambda: paused.says("terms.expired") or paused.says("pull.silent"), 10)
            receiver.hold.set()
            await until(site.is_settled, 20)

    assert sorted(receiver.ids()) == sorted([warm, *deliveries]), "each one exactly once"


async def test_a_consumer_that_is_cut_off_starts_nothing_after_its_term(site: Site, receiver: Scripted) -> None:
    """It drops what it holds, and delivers when it is back. Nothing of it was in flight, so nothing comes twice."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=1, timeout_s=30)
    async with (
        StallingProxy(int(site.server.url.rpartition(":")[2])) as proxy,
        site.consumer_process(environ={"ONEPROTECT_NATS_URL": proxy.url}) as consumer,
    ):
        deliveries = [await site.deliver("orders") for _ in range(WAITING)]
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(lambda: _is_read(site))
        proxy.stall()
        await until(lambda: consumer.says("terms.expired"), 10)
        receiver.hold.set()
        await until(lambda: consumer.says("publish.failed"), 10)  # the first one has been answered
        assert len(receiver.seen) == 1, "its lane is free, and nothing starts"
        proxy.resume()
        await until(site.is_settled, 60)

    assert sorted(receiver.ids()) == sorted(deliveries), "each one exactly once"


async def test_a_consumer_that_hears_nothing_from_nats_starts_nothing(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """Its terms last, but it could not store the results. It resumes by itself."""
    loop = asyncio.get_running_loop()
    async with (
        Site(tmp_path, nats_server, ack_wait_s="60") as site,
        StallingProxy(int(site.server.url.rpartition(":")[2])) as proxy,
        site.consumer_process(environ={"ONEPROTECT_NATS_URL": proxy.url}) as consumer,
    ):
        receiver.hold = asyncio.Event()
        await site.destination("orders", receiver.url, max_in_flight=1, timeout_s=30)
        deliveries = [await site.deliver("orders") for _ in range(WAITING)]
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(lambda: _is_read(site))
        proxy.stall()
        await until(lambda: consumer.says("nats.silent"), 10)
        receiver.hold.set()
        answered_at = loop.time()
        await until(lambda: loop.time() > answered_at + 1)
        assert len(receiver.seen) == 1
        proxy.resume()
        await until(site.is_settled, 20)

    assert sorted(receiver.ids()) == sorted(deliveries), "each one exactly once"


async def test_an_ordered_head_is_sent_only_under_the_lease(site: Site, receiver: Scripted) -> None:
    """A consumer that held the head through a pause does not send it when another one has the queue."""
    receiver.script = [Answer(503, {"retry-after": "1"}), 200]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[1.0] * 5)
    async with site.consumer_process() as paused:
        deliveries = [await site.deliver("orders") for _ in range(3)]
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(lambda: site.results(deliveries[0]), 10)
        _pause(paused)
        async with site.consumer_process():
            await until(site.is_settled, 40)
            sent = receiver.ids()
            more = [await site.deliver("orders") for _ in range(3)]
            _resume(paused)
            await until(site.is_settled, 40)

    assert sent == [one for one in deliveries for _ in range(2)]
    assert receiver.ids() == [one for one in [*deliveries, *more] for _ in range(2)]


async def test_an_answer_that_arrived_during_a_pause_counts(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The deadline passes during the pause. The answer is in the socket, so the attempt did not time out.

    Chance decides whether a paused process looks at its timers or at its sockets first. So there are several pauses.
    """
    async with Scripted() as receiver, Site(tmp_path, nats_server, ack_wait_s="60") as site:
        await site.destination("orders", receiver.url, timeout_s=1)
        async with site.consumer_process() as consumer:
            await site.deliver("orders")
            await until(site.is_settled, 20)
            results = [await _result_of_a_paused_attempt(site, receiver, consumer) for _ in range(6)]

    assert {(result.outcome, result.code) for result in results} == {(Outcome.DELIVERED, Code.HTTP_2XX)}


async def _result_of_a_paused_attempt(site: Site, receiver: Scripted, consumer: Process) -> AttemptResult:
    """Pause the consumer while its request is in flight, for longer than the request may take."""
    loop = asyncio.get_running_loop()
    receiver.hold = asyncio.Event()
    delivery = await site.deliver("orders")
    await until(lambda: receiver.of(delivery), 10)
    _pause(consumer)
    receiver.hold.set()
    await until(lambda: loop.time() > receiver.of(delivery)[0].at + 1.2)
    _resume(consumer)
    return (await until(lambda: site.results(delivery), 10))[0]


async def _held(site: Site, seconds: float) -> Message:
    await site.deliver("orders")
    (message,) = await fetch(site.jetstream.connection, stream=streams.WORK.name, consumer="delivery", batch=1)
    message.term = Term(clock() + seconds)
    return message


async def test_a_confirmed_mark_extends_a_term_that_lasts(site: Site) -> None:
    """The new term counts from before the mark was sent."""
    message, before = await _held(site, 1.0), clock()
    async with ProgressMarks(site.jetstream.connection, ack_wait_s=60) as marks:
        marks.send([message])
        await until(lambda: message.term.until > before + 50)

    assert before + 58 <= message.term.until <= clock() + 58


async def test_a_confirmed_mark_extends_no_term_that_is_over(site: Site) -> None:
    """The server confirms the mark all the same. It also confirms marks of messages that another consumer has."""
    late, other = await _held(site, 60.0), await _held(site, 1.0)
    async with ProgressMarks(site.jetstream.connection, ack_wait_s=60) as marks:
        marks.send([late, other])
        late.term = Term(clock())  # the confirmation is read after the end
        await until(lambda: other.term.until > clock() + 50)
        assert not late.is_held()

        marks.begin_round()
        marks.send([late, other])  # the first is not even marked
        before = other.term.until
        await until(lambda: other.term.until > before)

    assert not late.is_held()


async def test_a_mark_that_no_consumer_hears_extends_nothing(site: Site) -> None:
    """The server answers with a status when the consumer has no leader."""
    lost, heard = await _held(site, 10.0), await _held(site, 10.0)
    lost.reply = b"$JS.ACK.NO_STREAM.delivery.1.1.1.1.0"
    until_before = lost.term.until
    async with ProgressMarks(site.jetstream.connection, ack_wait_s=60) as marks:
        marks.send([lost, heard])
        await until(lambda: heard.term.until > clock() + 50)

    assert lost.term.until == until_before


async def test_nothing_is_settled_after_the_term(site: Site) -> None:
    """Neither a late acknowledgement nor a late hand-back reaches a message that another consumer may have."""
    message = await _held(site, 60.0)
    message.term = Term(clock())

    message.nak()
    message.ack()
    await site.jetstream.connection.flush()

    info = await site.jetstream.connection.api("CONSUMER.INFO.ONEPROTECT_WORK.delivery")
    assert (info["num_ack_pending"], info["num_redelivered"]) == (1, 0)
