"""A look reads the messages of its own delivery, and misses none that the stream has."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from consumers.attempts.delivery_index import MAX_SINGLE, DeliveryIndexes
from consumers.attempts.log import StreamAttemptLog
from consumers.model.request import DeliveryAttemptRequest
from messaging.client.headers import block_of
from messaging.message import Message
from oneprotect.bootstrap.resources import open_jetstream
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, encode
from schemas.headers import HEADER_ATTEMPT, HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET, HEADER_SINCE
from tests.support.site import TENANT, Site, document


def _result(destination: str, delivery: str, outcome: Outcome = Outcome.RETRY_SCHEDULED) -> bytes:
    result = AttemptResult(
        delivery=delivery,
        destination=destination,
        event_type="a.b",
        attempt=1,
        outcome=outcome,
        code=Code.HTTP_5XX,
        started_at=datetime.now(UTC),
        duration_ms=1,
        worker="tests",
    )
    return encode(
        DeliveryAttempted(specversion="1.0", id="1", source="/t", time=datetime.now(UTC), tenant=TENANT, data=result)
    )


async def _record(site: Site, destination: str, delivery: str, bucket: str = "0") -> None:
    subject = f"{subjects.attempted(TENANT, destination, '*').removesuffix('*')}{bucket}"
    await site.jetstream.publisher.put(subject, _result(destination, delivery))


async def _make_due(site: Site, destination: str, delivery: str, attempt: int) -> None:
    headers = {HEADER_ATTEMPT: str(attempt)}
    data = document(destination, delivery=delivery)
    await site.jetstream.publisher.put(subjects.due(TENANT, destination), data, headers)


def _redelivered(site: Site, destination: str, delivery: str, since: datetime) -> DeliveryAttemptRequest:
    """The first attempt of a delivery, which asks for a look."""
    subject = subjects.requested(TENANT, destination)
    reply = f"$JS.ACK.{streams.WORK.name}.delivery.2.1.1.{int(datetime.now(UTC).timestamp() * 1e9)}.0".encode()
    block = block_of({HEADER_SINCE: since.isoformat()})
    data, connection = document(destination, delivery=delivery), site.jetstream.connection
    message = Message(subject, subjects.lane_of(subject), reply, data, block, connection)
    return DeliveryAttemptRequest.from_message(message, max_payload_bytes=1000)


async def _count_read(site: Site, destination: str, names: list[str]) -> int:
    """Let each delivery of a destination be due and have a result, look at all, and return how much was read."""
    log, since = StreamAttemptLog(site.jetstream.connection), datetime.now(UTC) - timedelta(seconds=1)
    for page in (names[start : start + 100] for start in range(0, len(names), 100)):
        await asyncio.gather(*(_make_due(site, destination, name, 2) for name in page[::2]))
        await asyncio.gather(*(_record(site, destination, name, subjects.bucket_of(name)) for name in page))
    read = 0

    def count(*_: bytes) -> None:
        nonlocal read
        read += 1

    async with open_jetstream(site.settings, name="counter") as counter:
        await counter.connection.listen(f"{site.settings.nats.inbox_prefix}.>", count)
        await counter.connection.flush()
        looks = (log.read_history(_redelivered(site, destination, name, since)) for name in names)
        found = await asyncio.gather(*looks)
        await counter.connection.flush()
    assert [one.is_superseded for one in found] == [True, False] * (len(names) // 2)
    assert [[result.delivery for result in one.results] for one in found] == [[name] for name in names]
    return read


async def test_twice_as_many_looks_at_a_destination_read_twice_as_many_messages(site: Site) -> None:
    """A look costs a few messages, however many deliveries have results and due retries."""
    names = [f"dlv_{number}" for number in range(800)]

    few, many = await _count_read(site, "few", names[:400]), await _count_read(site, "many", names)

    assert many < 2.5 * few
    assert many < 12 * len(names)


@pytest.mark.parametrize("max_indexed", [10_000, 12, 2])
async def test_an_index_names_each_message_that_the_stream_has(site: Site, max_indexed: int) -> None:
    """Whatever the order of the looks, of their times and of what is stored meanwhile, and however small the index."""
    chance, stored = random.Random(max_indexed), list[tuple[str, datetime, int]]()  # noqa: S311 - a seed
    indexes = DeliveryIndexes(site.jetstream.connection, max_indexed=max_indexed)
    subject = subjects.attempted(TENANT, "orders", "*").replace("*", "0")

    async def look() -> None:
        name, since = f"dlv_{chance.randrange(6)}", datetime.now(UTC) - timedelta(seconds=chance.choice([0, 0.05, 1]))
        if stored and chance.random() < 0.5:
            since = chance.choice(stored)[1] - timedelta(microseconds=1)  # which is rounded
        wanted = [sequence for delivery, at, sequence in stored if delivery == name and at >= since]
        read = indexes.read(streams.ATTEMPTS.name, subject, name, since)
        found = [record.sequence async for record in read]
        assert [sequence for sequence in found if sequence in wanted] == wanted
        assert found == sorted(set(found))

    async def store() -> None:
        for _ in range(chance.randrange(4)):
            name = f"dlv_{chance.randrange(6)}"
            await site.jetstream.publisher.put(subject, _result("orders", name))
            record = (await site.records(streams.ATTEMPTS))[-1]
            stored.append((name, record.stored_at, record.sequence))

    for _ in range(40):
        await asyncio.gather(store(), *(look() for _ in range(chance.randrange(5))))
    assert len(stored) > 40


async def test_a_result_of_an_earlier_request_with_the_id_does_not_count(site: Site) -> None:
    """The index knows it for the sake of another look."""
    log = StreamAttemptLog(site.jetstream.connection)
    await _record(site, "orders", "one", subjects.bucket_of("one"))
    (record,) = await site.records(streams.ATTEMPTS)
    earlier, later = record.stored_at, record.stored_at + timedelta(seconds=3)

    assert len((await log.read_history(_redelivered(site, "orders", "one", earlier))).results) == 1
    assert (await log.read_history(_redelivered(site, "orders", "one", later))).results == []


async def test_a_due_message_that_was_removed_supersedes_nothing(site: Site) -> None:
    """The index names it, and the leader does not have it."""
    log, since = StreamAttemptLog(site.jetstream.connection), datetime.now(UTC) - timedelta(seconds=1)
    await _make_due(site, "orders", "one", 2)
    await _make_due(site, "orders", "two", 2)
    (record, _) = await site.records(streams.RETRIES)
    look = _redelivered(site, "orders", "one", since)

    assert (await log.read_history(look)).is_superseded
    await site.jetstream.connection.api(f"STREAM.MSG.DELETE.{streams.RETRIES.name}", {"seq": record.sequence})
    assert not (await log.read_history(look)).is_superseded


@pytest.mark.parametrize("lost", [1, 3, 10])
async def test_an_index_is_dropped_when_sequences_are_used_again(site: Site, lost: int) -> None:
    """A server that has lost messages begins again below those that the index names, and may be above them by now."""
    log, since = StreamAttemptLog(site.jetstream.connection), datetime.now(UTC) - timedelta(seconds=1)
    for name in ["one", *["two"] * 2]:
        await _record(site, "orders", name, subjects.bucket_of("one"))
    assert len((await log.read_history(_redelivered(site, "orders", "one", since))).results) == 1

    await site.jetstream.connection.api(f"STREAM.DELETE.{streams.ATTEMPTS.name}")
    await site.apply()
    for name in ["two", "one", *["two"] * 8][:lost]:
        await _record(site, "orders", name, subjects.bucket_of("one"))
    assert len((await log.read_history(_redelivered(site, "orders", "one", since))).results) == (lost > 1)


async def test_a_delivery_with_many_results_has_all_of_them(site: Site) -> None:
    """They are read together, and none is missed or comes twice."""
    indexes, since = DeliveryIndexes(site.jetstream.connection), datetime.now(UTC) - timedelta(seconds=1)
    for name in ["one", "two"] * (MAX_SINGLE + 6):
        await _record(site, "orders", name)
    subject = subjects.attempted(TENANT, "orders", "*").replace("*", "0")

    read = [one async for one in indexes.read(streams.ATTEMPTS.name, subject, "one", since)]

    assert [one.sequence for one in read] == list(range(1, 2 * MAX_SINGLE + 12, 2))


async def test_a_newer_message_that_moves_during_a_look_is_found(site: Site) -> None:
    """It is due and is deferred to its schedule, or it is scheduled and becomes due."""
    log, since = StreamAttemptLog(site.jetstream.connection), datetime.now(UTC) - timedelta(seconds=1)
    schedule = subjects.scheduled(TENANT, "orders", "one")
    look = _redelivered(site, "orders", "one", since)
    await _make_due(site, "orders", "one", 2)
    for number in range(40):
        looks = [asyncio.create_task(log.read_history(look)) for _ in range(4)]
        await asyncio.sleep(number % 4 * 0.0005)
        (record,) = await site.records(streams.RETRIES)
        if record.subject == schedule:
            await _make_due(site, "orders", "one", 2)
        else:
            waits = {
                HEADER_ATTEMPT: "2",
                HEADER_SCHEDULE: "@at 2099-01-01T00:00:00Z",
                HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders"),
            }
            await site.jetstream.publisher.put(schedule, document("orders", delivery="one"), waits)
        await site.jetstream.connection.api(f"STREAM.MSG.DELETE.{streams.RETRIES.name}", {"seq": record.sequence})
        assert all(found.is_superseded for found in await asyncio.gather(*looks))
