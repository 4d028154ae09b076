"""Buckets and tables."""

import pytest
import structlog

from messaging.kv import KvBucket, KvEntry, KvTable, WriteContention
from schemas import streams
from tests.support.site import Site


class ContendedBucket(KvBucket):
    """A bucket in which another writer changes an entry after each of the first `writes` reads."""

    writes = 1

    async def find(self, key: str) -> KvEntry:
        """Read the entry, and change it."""
        entry = await super().find(key)
        if self.writes:
            self.writes -= 1
            await super().put(key, b"1")
        return entry


@pytest.fixture
def bucket(site: Site) -> ContendedBucket:
    """A bucket of numbers."""
    return ContendedBucket(site.jetstream.connection, site.jetstream.publisher, streams.RATES)


async def test_an_update_is_repeated_after_a_conflict(bucket: ContendedBucket) -> None:
    """The change is applied to what the other writer stored."""
    row = await KvTable(bucket, int).update("acme.orders", lambda stored: (stored or 0) + 10)
    stored = await bucket.get("acme.orders")
    assert (row.id, row.value) == ("orders", 11)
    assert stored == KvEntry("acme.orders", b"11", row.revision)


async def test_an_update_ends_when_other_writers_never_pause(bucket: ContendedBucket) -> None:
    """The entry is left as the other writers stored it."""
    bucket.writes = 1000
    with pytest.raises(WriteContention):
        await KvTable(bucket, int).update("acme.orders", lambda _: 10)
    bucket.writes = 0
    assert (await bucket.find("acme.orders")).value == b"1"


async def test_an_undecodable_row_counts_as_absent(bucket: ContendedBucket) -> None:
    """It is logged once, left out of lists, and replaced by an update."""
    bucket.writes = 0
    await bucket.put("acme.orders", b"{}")
    await bucket.put("acme.refunds", b"2")
    table = KvTable(bucket, int)
    with structlog.testing.capture_logs() as logs:
        assert await table.get("acme.orders") is None
        assert [row.key for row in await table.list("acme.*")] == ["acme.refunds"]
    assert [(entry["event"], entry["key"]) for entry in logs] == [("kv.undecodable", "acme.orders")]
    assert list(table.undecodable) == ["acme.orders"]
    assert (await table.update("acme.orders", lambda stored: 1 if stored is None else 0)).value == 1
