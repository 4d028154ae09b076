"""Overdue schedules, which the server should have fired: consumers make them due."""

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from consumers.retries.overdue import OverdueSchedules
from consumers.retries.server_clock import ServerClock
from schemas import streams
from schemas.codes import Outcome
from schemas.events import decode_result, encode
from tests.support.cluster import cluster
from tests.support.receiver import Scripted
from tests.support.site import Process, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry


async def _schedules(site: Site) -> int:
    return sum(".scheduled." in record.subject for record in await site.records(streams.RETRIES))


async def test_overdue_schedules_are_fired_once_whoever_finds_them(site: Site, receiver: Scripted) -> None:
    """Two consumers look. What is due within two hours counts as overdue here, and the server fires nothing."""
    await _fire(site, receiver, 300)


async def test_overdue_schedules_are_fired_once_with_three_replicas(tmp_path: Path, receiver: Scripted) -> None:
    """The schedules are read from replicas, of which some lag behind."""
    async with cluster(tmp_path / "nats") as nodes, Site(tmp_path, nodes[0], nats_replicas="3") as site:
        await _fire(site, receiver, 30)


async def _fire(site: Site, receiver: Scripted, count: int) -> None:
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])
    connection, publisher = site.jetstream.connection, site.jetstream.publisher

    async with site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(count)]
        await until(lambda: _is_count(site, count), 20)
        stop = asyncio.Event()
        finders = [
            OverdueSchedules(
                connection, publisher, ServerClock(connection), overdue_s=-7200, patience_s=0, interval_s=0.2
            )
            for _ in range(2)
        ]
        running = [asyncio.create_task(finder.run(stop)) for finder in finders]
        await until(site.is_settled, 30)
        stop.set()
        await asyncio.gather(*running)

    assert sorted(receiver.ids()) == sorted(2 * deliveries)
    assert {result.outcome for result in await site.results()} == {Outcome.RETRY_SCHEDULED, Outcome.DELIVERED}


async def test_an_overdue_retry_that_the_server_has_fired_as_well_is_not_sent_again(
    site: Site, receiver: Scripted
) -> None:
    """The server's retry is delivered already when the schedule that a consumer fires is due."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])
    connection, publisher = site.jetstream.connection, site.jetstream.publisher

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: _is_count(site, 1), 20)
        (record,) = await site.records(streams.ATTEMPTS)
        first = decode_result(record.data)
        second = msgspec.structs.replace(first.data, attempt=2, outcome=Outcome.DELIVERED, next_attempt_at=None)
        await publisher.put(record.subject, encode(msgspec.structs.replace(first, data=second)))
        stop = asyncio.Event()
        finder = OverdueSchedules(
            connection, publisher, ServerClock(connection), overdue_s=-7200, patience_s=0, interval_s=0.2
        )
        running = asyncio.create_task(finder.run(stop))
        await until(site.is_settled, 20)
        stop.set()
        await running

    assert len(receiver.seen) == 1


async def test_a_schedule_that_is_not_overdue_is_left_alone(site: Site, receiver: Scripted) -> None:
    """A time in the future is the server's business."""
    receiver.script = [500]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])
    connection = site.jetstream.connection

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: _is_count(site, 1), 20)
        stop = asyncio.Event()
        finder = OverdueSchedules(connection, site.jetstream.publisher, ServerClock(connection), interval_s=0.01)
        running = asyncio.create_task(finder.run(stop))
        await asyncio.sleep(0.5)  # some rounds
        stop.set()
        await running

    assert await _schedules(site) == 1
    assert finder.overdue == 0


async def test_a_server_has_time_to_fire_what_is_overdue(site: Site, receiver: Scripted) -> None:
    """It may have been down. A schedule that both fire at the same moment would be sent twice."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])
    connection, loop = site.jetstream.connection, asyncio.get_running_loop()

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: _is_count(site, 1), 20)
        stop, began = asyncio.Event(), loop.time()
        finder = OverdueSchedules(
            connection, site.jetstream.publisher, ServerClock(connection), overdue_s=-7200, patience_s=1, interval_s=0.1
        )
        running = asyncio.create_task(finder.run(stop))
        await until(lambda: finder.overdue == 1)
        assert await _schedules(site) == 1
        await until(site.is_settled, 20)
        stop.set()
        await running

    assert loop.time() - began >= 1
    assert len(receiver.seen) == 2


async def test_a_consumer_whose_clock_is_an_hour_ahead_schedules_by_the_servers_clock(
    site: Site, receiver: Scripted
) -> None:
    """The retry starts after its wait of a second, and not after an hour."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[1])
    consumer = await Process.start(site.environ, "3600", module="tests.component.retries.skewed")
    try:
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 2, 20)
    finally:
        consumer.kill()
        await consumer.wait()

    first, *_ = await site.results()
    assert first.next_attempt_at is not None
    assert first.started_at - first.next_attempt_at > timedelta(minutes=59)


async def _is_count(site: Site, count: int) -> bool:
    return await _schedules(site) == count
