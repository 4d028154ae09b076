"""Reads that decide something: complete although a replica that answers lags behind."""

from datetime import UTC, datetime, timedelta

import pytest

from consumers.attempts import leader_reads
from messaging import direct_get
from messaging.client.errors import NotFound
from schemas import streams, subjects
from tests.support.site import TENANT, Site
from tests.support.waiting import until

MESSAGES = 40


async def _lag(site: Site) -> None:
    """Let a mirror that has one message answer a part of the direct gets, as a replica that lags far behind does."""
    connection = site.jetstream.connection
    await connection.api(
        "STREAM.CREATE.LAGGING",
        {
            "name": "LAGGING",
            "storage": "file",
            "mirror": {"name": streams.ATTEMPTS.name, "filter_subject": "oneprotect.delivery.attempted.nobody.>"},
            "mirror_direct": True,
            "allow_direct": True,
        },
    )
    await site.jetstream.publisher.put(subjects.attempted("nobody", "orders", "dlv_1"), b"0")


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
    await _lag(site)
    subject = await _fill(site)
    await until(lambda: _is_lagging(site, subject))
    connection, since = site.jetstream.connection, datetime.now(UTC) - timedelta(minutes=1)

    for _ in range(10):
        found = [one async for one in leader_reads.scan_since(connection, streams.ATTEMPTS.name, subject, since)]
        assert [int(record.data) for record in found] == list(range(MESSAGES))
        last = await leader_reads.get_last(connection, streams.ATTEMPTS.name, subject)
        assert last is not None
        assert last.data == b"39"


async def test_a_scan_begins_at_its_time_and_needs_one_request_when_nothing_is_newer(site: Site) -> None:
    """Older messages are not read."""
    subject = await _fill(site)
    connection = site.jetstream.connection
    middle = (await site.records(streams.ATTEMPTS))[MESSAGES // 2]

    async def read(since: datetime) -> list[int]:
        records = leader_reads.scan_since(connection, streams.ATTEMPTS.name, subject, since)
        return [int(record.data) async for record in records]

    assert await read(middle.stored_at - timedelta(microseconds=1)) == list(range(MESSAGES // 2, MESSAGES))
    assert await read(datetime.now(UTC) + timedelta(seconds=1)) == []


async def test_no_message_is_told_from_no_stream(site: Site) -> None:
    """A missing stream never looks like an empty one."""
    connection = site.jetstream.connection

    assert await leader_reads.get_last(connection, streams.ATTEMPTS.name, "oneprotect.delivery.attempted.a.b.0") is None
    with pytest.raises(NotFound):
        await leader_reads.get_last(connection, "ONEPROTECT_OTHER", "oneprotect.delivery.attempted.a.b.0")
