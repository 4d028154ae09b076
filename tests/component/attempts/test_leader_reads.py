"""Reads that decide something: complete although a replica that answers lags behind."""

from datetime import UTC, datetime, timedelta

import pytest

from consumers.attempts import leader_reads
from messaging import direct_get
from messaging.client.errors import NotFound
from schemas import streams, subjects
from tests.support.cluster import lag_behind
from tests.support.site import TENANT, Site
from tests.support.waiting import until

MESSAGES = 40


async def _is_lagging(site: Site, subject: str) -> bool:
    scan = direct_get.scan(site.jetstream.connection, streams.ATTEMPTS.name, subject)
    return len([record async for record in scan]) < MESSAGES


async def _fill(site: Site) -> str:
    subject = subjects.attempted(TENANT, "orders", "dlv_1")
    for number in range(MESSAGES):
        await site.jetstream.publisher.put(subject, str(number).encode())
    return subject


async def test_a_scan_is_complete_although_a_replica_lags(site: Site) -> None:
    """What the replica misses comes from the leader."""
    await lag_behind(site)
    subject = await _fill(site)
    await until(lambda: _is_lagging(site, subject))
    connection, since = site.jetstream.connection, datetime.now(UTC) - timedelta(minutes=1)

    for _ in range(10):
        last = await leader_reads.get_last(connection, streams.ATTEMPTS.name, subject)
        assert last is not None
        assert last.data == b"39"
        place = connection, streams.ATTEMPTS.name, subject, last.sequence
        for scan in (leader_reads.scan(*place, since=since), leader_reads.scan(*place, first_sequence=1)):
            assert [int(record.data) async for record in scan] == list(range(MESSAGES))


async def test_a_scan_begins_at_its_time_and_ends_at_its_sequence(site: Site) -> None:
    """Neither older nor newer messages are yielded."""
    subject = await _fill(site)
    connection = site.jetstream.connection
    records = await site.records(streams.ATTEMPTS)
    middle, last = records[MESSAGES // 2], records[-1].sequence

    async def read(since: datetime, last: int) -> list[int]:
        found = leader_reads.scan(connection, streams.ATTEMPTS.name, subject, last, since=since)
        return [int(record.data) async for record in found]

    start = middle.stored_at - timedelta(microseconds=1)
    assert await read(start, last) == list(range(MESSAGES // 2, MESSAGES))
    assert await read(start, middle.sequence) == [MESSAGES // 2]
    assert await read(datetime.now(UTC) + timedelta(seconds=1), last) == []


async def test_no_message_is_told_from_no_stream(site: Site) -> None:
    """A missing stream never looks like an empty one."""
    connection = site.jetstream.connection

    assert await leader_reads.get_last(connection, streams.ATTEMPTS.name, "oneprotect.delivery.attempted.a.b.0") is None
    with pytest.raises(NotFound):
        await leader_reads.get_last(connection, "ONEPROTECT_OTHER", "oneprotect.delivery.attempted.a.b.0")
