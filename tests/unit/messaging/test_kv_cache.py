"""The cache of a bucket's rows."""

from typing import cast

import pytest

from messaging.client.errors import ServerUnavailable
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import KvCache


class StubBucket:
    """A bucket in memory that may be unavailable."""

    name = "numbers"

    def __init__(self) -> None:
        self.entries: list[KvEntry] = []
        self.reads = 0
        self.is_available = True

    async def list(self, _pattern: str) -> list[KvEntry]:
        """Return all entries."""
        self.reads += 1
        if not self.is_available:
            raise ServerUnavailable("no answer")
        return self.entries


@pytest.fixture
def bucket() -> StubBucket:
    """A bucket with two numbers."""
    stub = StubBucket()
    stub.entries = [KvEntry("acme.a", b"1", 1), KvEntry("acme.b", b"2", 2)]
    return stub


@pytest.fixture
def cache(bucket: StubBucket) -> KvCache[int]:
    """A cache of that bucket."""
    return KvCache(KvTable(cast("KvBucket", bucket), int))


async def test_rows_are_read_once_while_they_are_valid(bucket: StubBucket, cache: KvCache[int]) -> None:
    """After `expire` they are read again."""
    await cache.refresh("*")
    await cache.refresh("*")
    assert dict(cache.items()) == {"acme.a": 1, "acme.b": 2}
    assert bucket.reads == 1
    cache.expire()
    await cache.refresh("*")
    assert bucket.reads == 2


async def test_an_announcement_outweighs_a_list_from_a_lagging_replica(cache: KvCache[int]) -> None:
    """A new row is kept, a changed row keeps its new value, and a deleted row stays deleted."""
    for entry in (KvEntry("acme.new", b"9", 5), KvEntry("acme.a", b"7", 3), KvEntry("acme.b", None, 4)):
        await cache.receive(entry)
    await cache.read_all("*")
    assert dict(cache.items()) == {"acme.a": 7, "acme.new": 9}
    assert cache.knows("acme.b")


async def test_a_row_whose_deletion_was_not_announced_disappears_with_the_next_list(
    bucket: StubBucket, cache: KvCache[int]
) -> None:
    """The callback gets the old value and None."""
    updates: list[tuple[str, int | None, int | None]] = []
    await cache.refresh("*")
    await cache.receive(KvEntry("acme.a", b"7", 3))
    cache.on_update = lambda key, old, new: updates.append((key, old, new))
    bucket.entries = []
    cache.expire()
    await cache.refresh("*")
    assert sorted(updates) == [("acme.a", 7, None), ("acme.b", 2, None)]


async def test_rows_stay_when_they_cannot_be_read_again(bucket: StubBucket, cache: KvCache[int]) -> None:
    """The error reaches the caller."""
    await cache.refresh("*")
    bucket.is_available = False
    cache.expire()
    with pytest.raises(ServerUnavailable):
        await cache.refresh("*")
    assert cache.peek("acme.a") == 1
