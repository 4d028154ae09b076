"""Searches for due retries share the readings of a destination."""

import asyncio
from datetime import UTC, datetime

from consumers.attempts.due_search import DueSearch
from messaging import direct_get
from schemas import streams, subjects
from schemas.headers import HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

COUNT = 400


async def test_many_searches_for_due_retries_read_them_twice_at_most(site: Site) -> None:
    """Each search alone would read all of them, and with thousands that takes minutes."""
    due, since = subjects.due(TENANT, "orders"), datetime.now(UTC)
    schedule = {HEADER_SCHEDULE: "@at 2020-01-01T00:00:00Z", HEADER_SCHEDULE_TARGET: due}
    names = [f"dlv_{number}" for number in range(COUNT)]
    scheduled = ((subjects.scheduled(TENANT, "orders", name), document("orders", delivery=name)) for name in names)
    await asyncio.gather(*(site.jetstream.publisher.put(*one, schedule) for one in scheduled))
    connection = site.jetstream.connection

    async def have_fired() -> bool:
        return await direct_get.count(connection, streams.RETRIES.name, due) == COUNT

    await until(have_fired)
    search = DueSearch(connection)

    async def find(number: int) -> int:
        await asyncio.sleep(number % 2 * 0.001)
        return len(await search.find(due, f"dlv_{number}", since))

    before = connection.reads
    found = await asyncio.gather(*(find(number) for number in range(2 * COUNT)))

    assert found == [1] * COUNT + [0] * COUNT
    assert connection.reads - before < COUNT


async def test_a_search_finds_what_is_stored_before_it_begins(site: Site) -> None:
    """It does not join a reading that has begun."""
    due, since = subjects.due(TENANT, "orders"), datetime.now(UTC)
    search = DueSearch(site.jetstream.connection)

    for number in range(20):
        earlier = [asyncio.create_task(search.find(due, "dlv_x", since)) for _ in range(3)]
        await site.jetstream.publisher.put(due, document("orders", delivery=f"dlv_{number}"))
        assert len(await search.find(due, f"dlv_{number}", since)) == 1
        await asyncio.gather(*earlier)
