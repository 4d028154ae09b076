"""What cannot be stored onward stops neither the consumer nor other deliveries."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import urlsplit

import pytest

from consumers.worker.settling import STALL_S, SettlementProgress
from consumers.worker.worker import Handler, Worker, WorkerLimits
from messaging.message import Message
from messaging.publication import Publication
from messaging.pull_consumer import PullConsumer
from schemas import streams, subjects
from schemas.codes import Code
from schemas.headers import HEADER_CODE, HEADER_ORIGIN, HEADER_REASON
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

MAX_PAYLOAD = 1024 * 1024


async def _publish_raw(site: Site, *commands: bytes) -> None:
    """Send protocol lines that no client library sends, and wait until the server has received them."""
    url = urlsplit(site.server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + b"".join(commands) + b"PING\r\n")
    async with asyncio.timeout(5):
        while (line := await reader.readline()) != b"PONG\r\n":
            assert not line.startswith(b"-ERR"), line
    writer.close()


def _pub(subject: bytes, data: bytes, headers: bytes = b"") -> bytes:
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(data), data)
    block = b"NATS/1.0\r\n%b\r\n\r\n" % headers
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(block), len(block) + len(data), block, data)


@contextlib.asynccontextmanager
async def _running(site: Site, handler: Handler, *, settle_patience_s: float = 60) -> AsyncGenerator[Worker]:
    limits = WorkerLimits(
        max_in_flight=4,
        ack_wait_s=site.settings.delivery.ack_wait_s,
        drain_timeout_s=1,
        settle_patience_s=settle_patience_s,
    )
    worker = Worker(
        publisher=site.jetstream.publisher,
        connection=site.jetstream.connection,
        handler=handler,
        lane_limit=lambda _: 4,
        limits=limits,
    )
    worker.add_source(
        PullConsumer(
            site.jetstream.connection,
            stream=streams.WORK.name,
            consumer=streams.WORK_CONSUMER.name,
            on_message=worker.accept,
            room=partial(worker.free_capacity, streams.WORK.name),
            capacity=worker.capacity,
            ack_wait_s=worker.ack_wait_s,
        )
    )
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await running


async def test_odd_subjects_and_headers_are_quarantined_and_stop_nobody(site: Site, receiver: Scripted) -> None:
    """Tokens and headers that no client may publish again neither stay in the stream nor end the connection."""
    await site.destination("orders", receiver.url)
    prefix = f"oneprotect.delivery.requested.{TENANT}.".encode()
    await _publish_raw(
        site,
        _pub(prefix + b"a" * 3900, b"{}"),
        _pub(prefix + b"\xff\xfe", b"{}"),
        _pub(prefix + b"a\x01b", b"{}"),
        _pub(b"oneprotect.delivery.requested.\xc3\x28.orders", b"{}"),
        _pub(prefix + b"orders", b"{}", b"X\x01Y: v"),
        _pub(prefix + b"orders", document("orders", delivery="dlv_big"), b"X: " + b"a" * 65_000),
        _pub(prefix + b"orders", document("orders", delivery="dlv_odd"), b"traceparent: " + b"\xff" * 40),
    )
    async with site.consumer_process() as consumer:
        await site.deliver("orders")
        await until(site.is_settled, 20)
        consumer.terminate()
        await consumer.wait()

    kept = await site.records(streams.QUARANTINE)
    assert sorted(record.subject.removeprefix("oneprotect.delivery.quarantined.requested.") for record in kept) == [
        "-.orders",
        *[f"{TENANT}.-"] * 3,
        f"{TENANT}.orders",
    ]
    assert len(receiver.seen) == 3
    assert not consumer.says("nats.reconnected")
    assert not consumer.says("nats.error")


@pytest.mark.parametrize("ordering", ["any", "fifo"])
async def test_an_id_that_no_copy_may_have_holds_nothing_back(site: Site, receiver: Scripted, ordering: str) -> None:
    """A message with such a `Nats-Msg-Id` moves between streams under an id made from its place."""
    await site.destination("orders", receiver.url, ordering=ordering)
    odd = b"Nats-Msg-Id: " + b"\xff" * 30_000
    subject = subjects.overflow(TENANT, "orders").encode()
    await _publish_raw(
        site,
        _pub(subject, document("orders", delivery="dlv_odd"), odd),
        _pub(subject, document("orders", delivery="dlv_next")),
    )
    async with site.consumer():
        await until(lambda: len(receiver.seen) == 2, 20)
        await until(site.is_settled, 20)

    assert sorted(receiver.ids()) == ["dlv_next", "dlv_odd"]


@pytest.mark.parametrize("what", ["headers", "size", "expectation", "subject", "schedule"])
async def test_what_the_server_refuses_for_good_is_quarantined(site: Site, what: str) -> None:
    """The body stays whole, the headers are dropped, and nothing is tried again."""
    target, size, headers = subjects.attempted(TENANT, "orders", "dlv_1"), 2, {"X-Note": "x"}
    match what:
        case "headers":
            headers = {f"X-{number}": "a" * 1000 for number in range(70)}
        case "size":
            size = MAX_PAYLOAD - 10
        case "expectation":
            headers = {"Nats-Expected-Stream": streams.WORK.name}
        case "subject":
            target += "." + "a" * 4000
        case _:
            target, headers = subjects.scheduled(TENANT, "orders", "dlv_1"), {"Nats-Schedule": "at noon"}
    tries: list[str] = []

    async def handler(message: Message) -> tuple[Publication, ...]:
        tries.append(message.subject)
        return (Publication(target, b"x" * size, headers),) if message.lane.endswith(".bad") else ()

    await site.deliver("bad")
    await site.deliver("good")
    async with _running(site, handler) as worker:
        await until(site.is_settled, 10)

    (kept,) = await site.records(streams.QUARANTINE)
    assert sorted(tries) == [subjects.requested(TENANT, "bad"), subjects.requested(TENANT, "good")]
    assert kept.headers[HEADER_CODE] == Code.INTERNAL
    assert "cannot be stored" in kept.headers[HEADER_REASON]
    assert b'"n": 1' in kept.data
    assert worker.quarantines == 1
    assert site.jetstream.connection.reconnects == 0


async def _limit_quarantine(site: Site, max_bytes: int) -> None:
    await site.jetstream.connection.api(
        f"STREAM.UPDATE.{streams.QUARANTINE.name}",
        {"name": streams.QUARANTINE.name, "subjects": list(streams.QUARANTINE.subjects), "max_msg_size": max_bytes}
        | {"max_age": int(streams.QUARANTINE.max_age_s * 1e9), "duplicate_window": 600 * 10**9, "allow_direct": True},
    )


def _follow_up(*headers: dict[str, str]) -> Handler:
    """Return a handler that stores a result for each of `headers` for the destination `bad`."""
    subject = subjects.attempted(TENANT, "orders", "dlv_1")

    async def handler(message: Message) -> tuple[Publication, ...]:
        is_bad = message.lane.endswith(".bad")
        return tuple(Publication(subject, b"{}", one) for one in headers) if is_bad else ()

    return handler


@pytest.mark.parametrize("max_bytes", [10, 400])
async def test_a_message_of_which_nothing_can_be_stored_is_never_delivered_again(site: Site, max_bytes: int) -> None:
    """Its request would be sent again each time. The quarantine keeps its place, if it can."""
    await _limit_quarantine(site, max_bytes)
    await site.deliver("bad", payload=b'"' + 400 * b"x" + b'"')
    async with _running(site, _follow_up({"Nats-Expected-Stream": "OTHER"})) as worker:
        await until(site.is_settled, 10)
        kept = await site.records(streams.QUARANTINE)

    assert (worker.returns, worker.terminations, worker.quarantines) == ((0, 1, 0) if max_bytes == 10 else (0, 0, 1))
    assert [(record.data, record.headers[HEADER_ORIGIN]) for record in kept] == (
        [] if max_bytes == 10 else [(b"", subjects.requested(TENANT, "bad"))]
    )


async def test_a_message_with_a_result_that_even_the_quarantine_refuses_is_returned_and_blocks_nobody(
    site: Site,
) -> None:
    """It takes up no room in the worker, and comes back after a long pause."""
    await _limit_quarantine(site, 10)
    await site.deliver("bad")
    async with _running(site, _follow_up({}, {"Nats-Expected-Stream": "OTHER"})) as worker:
        await until(lambda: worker.returns == 1, 10)
        for _ in range(10):
            await site.deliver("good")
        await until(lambda: worker.settlements == 10, 10)
        assert worker.unsettled == 0

    assert await site.waiting() == 1


async def test_a_message_whose_follow_up_fails_for_long_is_returned_after_its_result_is_stored(site: Site) -> None:
    """It no longer takes up room, and is settled by a redelivery once the stream is back."""
    await site.jetstream.connection.api(f"STREAM.DELETE.{streams.FAILED.name}")
    result = Publication(subjects.attempted(TENANT, "bad", "dlv_1"), b"{}", {"Nats-Msg-Id": "result"})
    follow_up = Publication(subjects.failed(TENANT, "bad", "dlv_1"), b"{}", {"Nats-Msg-Id": "failed"})

    async def handler(_message: Message) -> tuple[Publication, ...]:
        return (result, follow_up)

    await site.deliver("bad")
    async with _running(site, handler, settle_patience_s=0.3) as worker:
        await until(lambda: worker.returns >= 1, 10)
        assert worker.unsettled == 0
        await site.apply()
        await until(site.is_settled, 20)

    assert len(await site.records(streams.ATTEMPTS)) == 1
    assert len(await site.records(streams.FAILED)) == 1


def test_a_worker_makes_no_progress_when_it_settles_nothing_for_long() -> None:
    """An idle worker makes progress, and one that settles again does at once."""

    class Counts:
        settlements = 0
        is_settling = False

    now_s, counts = [0.0], Counts()
    progress = SettlementProgress(counts, clock=lambda: now_s[0])
    seen: list[bool] = []
    for at_s, is_settling, settlements in (
        (10 * STALL_S, False, 0),
        (10 * STALL_S + 1, True, 0),
        (11 * STALL_S - 1, True, 0),
        (11 * STALL_S + 1, True, 0),
        (11 * STALL_S + 2, True, 1),
    ):
        now_s[0], counts.is_settling, counts.settlements = at_s, is_settling, settlements
        seen.append(progress.is_made())
    assert seen == [True, True, True, False, True]
