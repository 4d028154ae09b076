"""The worker with its own handlers: crashes, slowness, and results that cannot be stored at once."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable
from functools import partial

from structlog.testing import capture_logs

from consumers.destinations.directory import ConfigurationDirectory
from consumers.worker.disposition import HandlerResult
from consumers.worker.fair_scheduler import MAX_WAITING
from consumers.worker.load_shedding import MAX_MOVING, LoadShedder, overflow_copy
from consumers.worker.worker import MAX_SETTLING, STARTS_BESIDE_OTHERS, Handler, TryStart, Worker, WorkerLimits
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.message import Message
from messaging.publication import Publication
from messaging.pull_consumer import PullConsumer, fetch
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.headers import (
    HEADER_CODE,
    HEADER_MSG_ID,
    HEADER_REASON,
    HEADER_SCHEDULE,
    HEADER_SCHEDULE_TARGET,
    HEADER_SINCE,
)
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def _running(
    site: Site,
    handler: Handler,
    *,
    try_start: TryStart = lambda _message, _on_end: None,
    max_in_flight: int = 4,
    lane_limit: int = 4,
    drain_timeout_s: float = 5,
    max_waiting: int = MAX_WAITING,
) -> AsyncGenerator[Worker]:
    jetstream = site.jetstream
    runtime = Worker(
        publisher=jetstream.publisher,
        connection=jetstream.connection,
        handler=handler,
        try_start=try_start,
        lane_limit=lambda _: lane_limit,
        shedder=LoadShedder(jetstream.publisher, lambda _lane: True),
        limits=WorkerLimits(
            max_in_flight=max_in_flight,
            max_waiting=max_waiting,
            ack_wait_s=site.settings.delivery.ack_wait_s,
            drain_timeout_s=drain_timeout_s,
        ),
    )
    runtime.add_source(
        PullConsumer(
            jetstream.connection,
            stream=streams.WORK.name,
            consumer=streams.WORK_CONSUMER.name,
            on_message=runtime.accept,
            room=partial(runtime.free_capacity, streams.WORK.name),
            capacity=runtime.capacity,
            ack_wait_s=runtime.ack_wait_s,
        )
    )
    stop = asyncio.Event()
    running = asyncio.create_task(runtime.run(stop))
    try:
        yield runtime
    finally:
        stop.set()
        await running


async def test_a_message_that_crashes_its_handler_three_times_is_quarantined(site: Site) -> None:
    """The worker retries twice, reports no success, and handles other messages meanwhile."""
    calls: list[str] = []

    async def handler(message: Message) -> tuple[Publication, ...]:
        calls.append(message.subject)
        if message.subject.endswith(".bad"):
            raise RuntimeError("details that must not be kept")
        return ()

    await site.deliver("bad")
    await site.deliver("good")
    async with _running(site, handler):
        await until(site.is_settled, 15)

    (kept,) = await site.records(streams.QUARANTINE)
    assert calls.count(subjects.requested(TENANT, "bad")) == 3
    assert calls.count(subjects.requested(TENANT, "good")) == 1
    assert kept.headers[HEADER_CODE] == Code.INTERNAL
    assert kept.headers[HEADER_REASON] == "failed 3 times, last with RuntimeError"


async def test_nothing_is_handled_far_ahead_of_its_storage(site: Site) -> None:
    """While no result can be stored, results do not queue up by thousands, and afterwards everything is handled."""
    calls: list[str] = []
    gate = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        await gate.wait()
        calls.append(message.identity)
        result = subjects.attempted(TENANT, "orders", f"dlv_{len(calls)}")
        return (Publication(result, b"{}", {}),)

    for _ in range(300):
        await site.deliver("orders")
    async with _running(site, handler, max_in_flight=10, lane_limit=100) as worker:
        await until(lambda: worker.unsettled == 300)
        # A stopped server would do, but the worker starts nothing once it notices the silence.
        await site.jetstream.connection.api(f"STREAM.DELETE.{streams.ATTEMPTS.name}")
        slots = worker.in_flight
        gate.set()
        await until(lambda: len(calls) >= MAX_SETTLING + slots)
        for _ in range(100):
            await asyncio.sleep(0)
        ahead = len(calls)
        await site.apply()
        await until(site.is_settled, 20)

    assert slots > 0
    assert ahead == MAX_SETTLING + slots
    assert len(set(calls)) == 300


async def test_an_outage_during_the_handling_is_no_crash(site: Site) -> None:
    """A handler that cannot reach JetStream is called again, as often as necessary."""
    calls: list[int] = []

    async def handler(message: Message) -> tuple[Publication, ...]:
        calls.append(message.deliveries)
        if len(calls) <= 4:
            message.deliveries = 0  # for short pauses
            raise ServerUnavailable("no reply")
        return ()

    await site.deliver("orders")
    async with _running(site, handler) as runtime:
        await until(site.is_settled, 30)

    assert len(calls) == 5
    assert runtime.crashes == 0
    assert await site.records(streams.QUARANTINE) == []


async def test_messages_handled_without_a_task_are_settled_alike(site: Site) -> None:
    """Crashes at their start and at their end count, and other messages get a task."""
    begun: list[str] = []
    called: list[str] = []

    def begin(message: Message, on_end: Callable[[HandlerResult], None]) -> Callable[[], None] | None:
        kind = message.subject.rpartition(".")[2]
        begun.append(kind)
        if kind == "raising":
            raise RuntimeError("details that must not be kept")
        if kind == "called":
            return None
        loop = asyncio.get_running_loop()
        loop.call_soon(on_end, RuntimeError("details") if kind == "failing" else ())
        return lambda: None

    async def handler(message: Message) -> tuple[Publication, ...]:
        called.append(message.subject.rpartition(".")[2])
        return ()

    for kind in ("good", "raising", "failing", "called"):
        await site.deliver(kind)
    async with _running(site, handler, try_start=begin):
        await until(site.is_settled, 15)

    kept = await site.records(streams.QUARANTINE)
    assert {kind: begun.count(kind) for kind in set(begun)} == {"good": 1, "raising": 3, "failing": 3, "called": 1}
    assert called == ["called"]
    assert {record.headers[HEADER_REASON] for record in kept} == {"failed 3 times, last with RuntimeError"}
    assert len(kept) == 2


async def test_a_drain_abandons_handlers_that_exceed_its_time(site: Site) -> None:
    """The next consumer gets the message at once."""
    given_up: list[str] = []

    def begin(message: Message, _on_end: Callable[[HandlerResult], None]) -> Callable[[], None] | None:
        return lambda: given_up.append(message.subject)

    async def handler(message: Message) -> tuple[Publication, ...]:
        del message
        return ()

    await site.deliver("slow")
    async with _running(site, handler, try_start=begin, drain_timeout_s=0.1) as runtime:
        await until(lambda: runtime.in_flight == 1)
    async with _running(site, handler):
        await until(site.is_settled)

    assert given_up == [subjects.requested(TENANT, "slow")]


async def test_slow_work_is_not_redelivered(site: Site) -> None:
    """The worker extends the deadlines of running and of waiting messages."""
    calls: list[str] = []
    release = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        calls.append(message.identity)
        await release.wait()
        return ()

    for _ in range(3):
        await site.deliver("orders")
    async with _running(site, handler, max_in_flight=1):
        await until(lambda: calls)
        pending_since = asyncio.get_running_loop().time()
        patience_s = site.settings.delivery.ack_wait_s
        await until(lambda: asyncio.get_running_loop().time() > pending_since + 2.5 * patience_s, 20)
        info = await site.jetstream.connection.api(f"CONSUMER.INFO.{streams.WORK.name}.{streams.WORK_CONSUMER.name}")
        release.set()
        await until(site.is_settled, 10)

    assert info["num_redelivered"] == 0
    assert len(calls) == len(set(calls)) == 3


async def test_nothing_is_acknowledged_before_its_outcome_is_stored(site: Site, receiver: Scripted) -> None:
    """Without the attempts stream the worker repeats the publish; the POST is made once."""
    await site.destination("orders", receiver.url)
    await site.jetstream.connection.api(f"STREAM.DELETE.{streams.ATTEMPTS.name}")

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: receiver.seen, 10)
        seen_at = asyncio.get_running_loop().time()
        patience_s = site.settings.delivery.ack_wait_s
        await until(lambda: asyncio.get_running_loop().time() > seen_at + 1.5 * patience_s, 20)
        assert await site.waiting() == 1
        await site.apply()
        await until(site.is_settled, 15)

    assert [result.outcome for result in await site.results(delivery)] == [Outcome.DELIVERED]
    assert len(receiver.seen) == 1


async def test_lanes_alternate(site: Site) -> None:
    """A later message in its own lane runs before the remainder of a long lane."""
    order: list[str] = []
    release = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        order.append(message.subject.rpartition(".")[2])
        await release.wait()
        return ()

    for _ in range(14):
        await site.deliver("many")
    await site.deliver("few")
    async with _running(site, handler, max_in_flight=5, lane_limit=5) as runtime:
        # What is held has been handed to tasks, and the loop may not have come to those yet.
        await until(lambda: runtime.unsettled == 15 and len(order) == 4, 10)
        assert order == ["many"] * 4
        release.set()
        await until(site.is_settled, 10)

    assert order.count("many") == 14
    assert order.index("few") <= 7


async def test_few_messages_that_need_a_task_start_in_a_turn_of_the_loop(site: Site) -> None:
    """What arrives for others is read in between: a backlog that needs no receiver does not hold it up."""
    counts: list[int] = []

    def begin(_message: Message, _on_end: Callable[[HandlerResult], None]) -> None:
        counts[-1] += 1

    async def handler(_message: Message) -> tuple[Publication, ...]:
        return ()

    async def count_turns() -> None:
        while True:
            counts.append(0)
            await asyncio.sleep(0)

    for _ in range(60):
        await site.deliver("many")
    counting = asyncio.create_task(count_turns())
    async with _running(site, handler, try_start=begin, max_in_flight=100, lane_limit=100):
        await until(site.is_settled, 30)
    counting.cancel()

    assert sum(counts) == 60
    assert max(counts) <= 2 * STARTS_BESIDE_OTHERS, "those of two turns at most are between two counts"


async def test_limits_of_worker_and_lanes_are_kept(site: Site) -> None:
    """The worker and its lanes stay within their limits."""
    running: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}
    release = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        lane = message.subject.rpartition(".")[2]
        running[lane] += 1
        most[lane] = max(most[lane], running[lane])
        most["all"] = max(most["all"], sum(running.values()))
        await release.wait()
        running[lane] -= 1
        return ()

    for _ in range(10):
        await site.deliver("a")
        await site.deliver("b")
    async with _running(site, handler, max_in_flight=6, lane_limit=3):
        await until(lambda: sum(running.values()) == 5, 10)
        release.set()
        await until(site.is_settled, 10)

    assert most == {"a": 3, "b": most["b"], "all": 5}
    assert most["b"] <= 3


async def test_a_later_worker_gets_a_share_of_the_backlog(site: Site) -> None:
    """The first worker returns a part of a long lane, and each message is handled once."""
    calls: list[str] = []
    release = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        calls.append(message.identity)
        await release.wait()
        return ()

    for _ in range(40):
        await site.deliver("orders")
    async with _running(site, handler, lane_limit=2) as first:
        await until(lambda: first.unsettled == 40)
        async with _running(site, handler, lane_limit=2) as second:
            # The second may have what the first has handed back a moment before the first lets go of it.
            await until(lambda: second.in_flight == 2 and first.unsettled < 40, 2 * site.settings.delivery.ack_wait_s)
            shared = first.unsettled
            release.set()
            await until(site.is_settled, 10)

    assert shared < 40
    assert len(calls) == 40
    assert len(set(calls)) == 40


async def test_a_surplus_moves_to_the_overflow_and_another_tenant_is_served(site: Site) -> None:
    """With all slots and the room of one tenant filled, the worker pulls on, and nothing is lost or handled twice."""
    handled: list[str] = []
    release = asyncio.Event()

    async def handler(message: Message) -> tuple[Publication, ...]:
        handled.append(message.subject)
        if "other" not in message.subject:
            await release.wait()
        return ()

    flood = [await site.deliver(f"d{number % 50}") for number in range(1000)]
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    last = "dlv_last"
    headers = {"traceparent": trace, "Nats-Expected-Stream": streams.WORK.name}
    await site.publish("d0", document("d0", delivery=last), last, **headers)
    other = subjects.requested("other", "orders")
    await site.jetstream.publisher.put(other, document("orders", tenant="other"))
    async with _running(site, handler, max_waiting=60) as runtime:
        await until(lambda: other in handled and runtime.unsettled < 40, 10)
        moved = await site.records(streams.OVERFLOW)
        due = len(await site.records(streams.WORK))
        release.set()
        await until(lambda: _is_empty(site, streams.WORK), 10)

    ids = [record.headers[HEADER_MSG_ID] for record in moved]
    copy = next(record for record in moved if subjects.msg_id(TENANT, "d0", last) in record.headers[HEADER_MSG_ID])
    assert due + len(moved) == len(flood) + 1
    assert len(handled) == due + 1
    assert len(set(ids)) == len(ids)
    assert copy.subject == subjects.overflow(TENANT, "d0")
    assert copy.headers["traceparent"] == trace
    assert "Nats-Expected-Stream" not in copy.headers
    assert HEADER_SINCE in copy.headers, "without it, a lost acknowledgement would send the delivery twice"
    assert copy.headers[HEADER_MSG_ID].startswith(f"{subjects.msg_id(TENANT, 'd0', last)}.o")


async def test_moved_retries_do_not_stop_the_pull_of_fresh_deliveries(site: Site) -> None:
    """Thousands of due retries of one tenant wait for their copies, and the work stream is pulled on."""

    async def handler(_: Message) -> tuple[Publication, ...]:
        await asyncio.Event().wait()
        return ()

    async with _running(site, handler, max_waiting=60, drain_timeout_s=0.1) as runtime:
        os.kill(site.server.pid, signal.SIGSTOP)
        try:
            for number in range(1, MAX_MOVING + 100):
                subject = subjects.due(TENANT, f"d{number}")
                reply = f"$JS.ACK.{streams.RETRIES.name}.d.1.{number}.{number}.1.0".encode()
                runtime.accept(
                    Message(subject, subjects.lane_of(subject), reply, b"{}", b"", site.jetstream.connection)
                )
            free = [runtime.free_capacity(stream.name) for stream in (streams.RETRIES, streams.WORK)]
        finally:
            os.kill(site.server.pid, signal.SIGCONT)
        await until(lambda: runtime.free_capacity(streams.RETRIES.name) > 0, 10)

    assert free == [0, runtime.capacity]


async def _is_empty(site: Site, stream: streams.StreamConfig) -> bool:
    return not await site.records(stream)


async def test_a_moved_message_is_delivered_when_it_is_fed_back(site: Site, receiver: Scripted) -> None:
    """The work stream, which still knows the id of the request, accepts the copy."""
    await site.destination("orders", receiver.url)
    delivery = await site.deliver("orders")
    (message,) = await fetch(
        site.jetstream.connection, stream=streams.WORK.name, consumer=streams.WORK_CONSUMER.name, batch=1
    )
    moved: asyncio.Future[JetStreamError | None] = asyncio.get_running_loop().create_future()
    LoadShedder(site.jetstream.publisher, lambda _lane: True).move(message, moved.set_result)
    assert await moved is None
    message.ack()
    async with site.consumer():
        await until(site.is_settled, 10)

    assert receiver.ids() == [delivery]


async def test_a_drain_does_not_wait_for_the_next_try_of_a_publish(site: Site) -> None:
    """JetStream has been away for seconds, so tries are seconds apart, and comes back just before the drain."""

    async def handler(_: Message) -> tuple[Publication, ...]:
        return (Publication(subjects.attempted(TENANT, "orders", "dlv_1"), b"{}", {}),)

    config, connection = streams.ATTEMPTS, site.jetstream.connection
    await connection.api(f"STREAM.DELETE.{config.name}")
    await site.deliver("orders")
    with capture_logs() as logs:
        async with _running(site, handler):
            await until(lambda: sum(line["event"] == "publish.failed" for line in logs) == 6, 20)
            stream = {"name": config.name, "subjects": config.subjects, "allow_direct": True}
            await connection.api(f"STREAM.CREATE.{config.name}", stream)
            began = asyncio.get_running_loop().time()

    assert asyncio.get_running_loop().time() - began < 2
    assert len(await site.records(config)) == 1


async def test_a_publish_on_a_lost_connection_fails_when_there_is_a_new_one(site: Site) -> None:
    """Its sender repeats it then, and does not wait for the time-out: the result of a request is at stake."""
    connection, publisher = site.jetstream.connection, site.jetstream.publisher
    connection.on_reconnect(publisher.expire)
    stored: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    os.kill(site.server.pid, signal.SIGSTOP)  # the message arrives nowhere
    publisher.send(Publication(subjects.attempted(TENANT, "orders", "dlv_1"), b"{}", {}), stored.set_result)
    await site.server.kill()
    await site.server.restart()

    assert str(await stored) == "the connection was lost before JetStream acknowledged"
    assert await _is_empty(site, streams.ATTEMPTS)


async def test_nothing_is_scheduled_after_the_term_of_a_message(site: Site) -> None:
    """Another consumer may have it by then. The result is recorded all the same."""
    handled = 0
    record = Publication(subjects.attempted(TENANT, "orders", "dlv_1"), b"{}", {})
    at = {HEADER_SCHEDULE: "@at 2099-01-01T00:00:00Z", HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders")}
    schedule = Publication(subjects.scheduled(TENANT, "orders", "dlv_1"), b"{}", at)

    async def handler(message: Message) -> tuple[Publication, ...]:
        nonlocal handled
        handled += 1
        if handled > 1:
            return ()
        message.term.until = 0.0
        return record, schedule

    await site.deliver("orders")
    async with _running(site, handler):
        await until(lambda: _is_empty(site, streams.WORK), 10)

    assert handled == 2
    assert len(await site.records(streams.ATTEMPTS)) == 1
    assert await _is_empty(site, streams.RETRIES)


async def test_a_message_that_is_moved_twice_has_one_suffix(site: Site) -> None:
    """A copy of a copy has the id of the request, and the sequence of the last move."""
    for suffix in ("", ".o17"):
        await site.publish("orders", document("orders"), f"dlv_1{suffix}")
    messages = await fetch(
        site.jetstream.connection, stream=streams.WORK.name, consumer=streams.WORK_CONSUMER.name, batch=2
    )

    ids = [overflow_copy(message).headers[HEADER_MSG_ID] for message in messages]
    assert ids == [f"{TENANT}.orders.dlv_1.o{number}" for number in (1, 2)]


async def test_heads_of_ordered_queues_do_not_stop_the_worker_from_pulling(site: Site) -> None:
    """Hundreds of large heads of one tenant are in hand, and the messages of the others are still pulled."""
    never = asyncio.Event()

    async def handler(_: Message) -> tuple[Publication, ...]:
        await never.wait()
        return ()

    async with _running(site, handler, drain_timeout_s=0.1) as runtime:
        for number in range(1, 601):
            subject = subjects.ordered(TENANT, f"d{number}")
            reply = f"$JS.ACK.{streams.ORDERED.name}.d.1.{number}.{number}.1.0".encode()
            lane = subjects.lane_of(subject)
            runtime.accept(Message(subject, lane, reply, bytes(256 * 1024), b"", site.jetstream.connection))

        assert runtime.unsettled == 600
        assert runtime.free_capacity(streams.WORK.name) > 0


async def test_messages_whose_order_may_matter_are_not_moved(site: Site, receiver: Scripted) -> None:
    """A destination with an ordered queue, or one that was not read yet: a copy would come behind later messages."""
    await site.destination("queue", receiver.url, ordering="fifo")
    await site.destination("plain", receiver.url)
    directory = ConfigurationDirectory(site.jetstream.destinations, site.jetstream.credentials)
    await directory.start()
    keys = [f"{TENANT}.{name}" for name in ("queue", "plain", "nowhere")]
    before = [directory.is_unordered(key) for key in keys]
    for key in keys:
        await directory.destination(*key.split("."))

    assert before == [False, False, False]
    assert [directory.is_unordered(key) for key in keys] == [False, True, True]
