"""Tenants with many large rows: what one request reads and holds does not depend on them."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from consumers.replay import index
from consumers.replay.store import ReplayRow
from messaging import direct_get
from messaging.kv import KvBucket
from messaging.quota import KeyQuota, QuotaExceeded
from schemas.configuration import Destination, Replay, ReplayFilter, ReplayState
from tests.support.site import TENANT, Site

MEBIBYTE = 1024**2


class Batches:
    """The batches of rows that are read in a context."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Count a batch."""
        self.count += 1
        yield


async def _peak_bytes(work: Callable[[], Coroutine[Any, Any, object]], *, callers: int) -> int:
    """Return the largest memory in use while `callers` do the work at once."""
    tracemalloc.start()
    try:
        await asyncio.gather(*(work() for _ in range(callers)))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def _put_all(bucket: KvBucket, rows: Iterable[tuple[str, bytes]]) -> None:
    await asyncio.gather(*(bucket.put(f"{TENANT}.{name}", value) for name, value in rows))


async def test_a_quota_of_large_destinations_is_counted_in_little_memory(site: Site) -> None:
    """However many requests count it at once; ordered destinations are among them."""
    jetstream = site.jetstream
    await site.destination("orders", "https://acme.com/in")
    large = Destination(url="https://acme.com/in", credential="key", description="x" * 1000, ordering="fifo")
    row = msgspec.json.encode(msgspec.structs.replace(large, headers={"x-long": "y" * 9000}))
    await _put_all(jetstream.destinations, ((f"d{number}", row) for number in range(1000)))
    await jetstream.index.start()
    fields = {"url": "https://acme.com/in", "credential": "key"}

    async def put() -> None:
        with contextlib.suppress(QuotaExceeded):
            await jetstream.configuration.set_destination(TENANT, "orders", fields | {"ordering": "fifo"}, by="test")

    peak = await _peak_bytes(put, callers=8)

    assert peak < 6 * MEBIBYTE, "the rows have 10 MB"
    assert await jetstream.index.count_ordered(TENANT) == 1000
    assert await jetstream.index.count(TENANT) == 1001


async def test_callers_near_a_limit_share_one_read_of_the_keys(site: Site) -> None:
    """A deleted key makes room at once, although its marker stays for a while."""
    bucket, batches = site.jetstream.credentials, Batches()
    await _put_all(bucket, ((f"c{number}", b"{}") for number in range(600)))  # the site has one more
    await bucket.delete(f"{TENANT}.c0")

    async def is_refused(quota: KeyQuota, name: str) -> bool:
        try:
            await quota.require_room(TENANT, f"{TENANT}.{name}")
        except QuotaExceeded:
            return True
        return False

    async def ask(limit: int) -> list[bool]:
        quota = KeyQuota(bucket, "credentials", limit, setting="X")
        return await asyncio.gather(*(is_refused(quota, f"new{number}") for number in range(20)))

    with direct_get.in_turns(batches.turn):
        assert await ask(601) == [False] * 20
        few = batches.count
        assert await ask(600) == [True] * 20
        assert batches.count == 2 * few < 12


def _replay(number: int, state: ReplayState, ids: int = 0) -> Replay:
    """Return a replay whose filter names so many deliveries."""
    chosen = ReplayFilter(destination=f"d{number}", ids=tuple(f"dlv_{number:06}_{one:090}" for one in range(ids)))
    return Replay(filter=chosen, by="test", started_at=datetime.now(UTC), until_sequence=1, state=state)


async def test_a_replay_begins_without_the_stored_ones_which_make_room(site: Site) -> None:
    """The oldest that ended are deleted. Unfinished ones stay, and are found by their filter."""
    service, bucket, batches = site.jetstream.replayer, site.jetstream.replays, Batches()
    rows = [ReplayRow(f"rpl-{number:03}", _replay(number, ReplayState.FINISHED, 600)) for number in range(40)]
    rows.append(ReplayRow("rpl-000-first", _replay(99, ReplayState.RUNNING, 600)))
    await _put_all(bucket, ((row.id, msgspec.json.encode(row.replay)) for row in rows))
    await service.index.start()

    async def begin() -> None:
        await service.begin(TENANT, ReplayFilter(), by="test")

    peak = await _peak_bytes(begin, callers=30)
    with direct_get.in_turns(batches.turn):
        await begin()
        resumed, _ = await service.begin(TENANT, rows[-1].replay.filter, by="test")

    kept = await bucket.list(f"{TENANT}.*")
    assert peak < 4 * MEBIBYTE, "the rows have 2.5 MB"
    assert batches.count == 0
    assert resumed == "rpl-000-first"
    assert sum(len(entry.value or b"") for entry in kept) < index.MAX_ENDED_BYTES + 100_000
    assert [entry.id for entry in kept][:2] == ["rpl-000-first", f"rpl-{41 - len(kept):03}"]
    assert len(kept) > 30
