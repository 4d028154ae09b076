"""The cache of a bucket's rows."""

import asyncio

import pytest

from messaging import kv_cache
from messaging.client.errors import ServerUnavailable
from messaging.kv import KvEntry, KvTable
from messaging.kv_cache import CachedValue, KvCache
from tests.unit.messaging.kv_bucket import StubBucket


@pytest.fixture
def bucket() -> StubBucket:
    """A bucket with two numbers."""
    return StubBucket(KvEntry("acme.a", b"1", 1), KvEntry("acme.b", b"2", 2))


@pytest.fixture
def cache(bucket: StubBucket) -> KvCache[int]:
    """A cache of that bucket."""
    return KvCache(KvTable(bucket.bucket, int))


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
    cache.expire(keep_announced=False)
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


async def test_a_list_longer_than_the_bound_is_kept_whole(bucket: StubBucket) -> None:
    """The next new key displaces the others, and the next refresh reads them again."""
    cache = KvCache(KvTable(bucket.bucket, int), max_entries=1)
    await cache.refresh("*")
    assert dict(cache.items()) == {"acme.a": 1, "acme.b": 2}

    await cache.receive(KvEntry("acme.new", b"9", 5))
    await cache.refresh("*")

    assert dict(cache.items()) == {"acme.a": 1, "acme.b": 2, "acme.new": 9}
    assert bucket.reads == 2


async def test_large_rows_displace_the_oldest_ones(bucket: StubBucket) -> None:
    """The bytes of the stored rows are bounded. A row that exceeds the bound alone is found all the same."""
    bucket.entries = [KvEntry(f"acme.{name}", b"1" * 100, 1) for name in "abcd"]
    cache = KvCache(KvTable(bucket.bucket, int), max_bytes=330)
    displaced: list[str] = []
    cache.on_forget = displaced.append
    held: list[CachedValue[int]] = []
    for name in "abcd":
        await cache.get(f"acme.{name}")
        if (known := cache.get_if_fresh(f"acme.{name}")) is not None:
            held.append(known)

    assert displaced == ["acme.a"]
    assert [known.until > 0 for known in held] == [False, True, True, True]
    assert cache.size == 318
    await cache.receive(KvEntry("acme.b", b"1" * 400, 2))
    assert displaced == ["acme.a", "acme.c", "acme.d"]
    assert (cache.peek("acme.b"), cache.size) == (int("1" * 400), 406)
    assert await cache.forget() == ["acme.b"]
    assert cache.size == 0


async def test_rows_forgotten_while_a_list_is_stored_are_read_again(bucket: StubBucket) -> None:
    """A new key beyond the bound drops the rows that the list has just brought."""
    cache = KvCache(KvTable(bucket.bucket, int), max_entries=1)
    new = [KvEntry("acme.new", b"9", 5)]

    def add_new(*_: object) -> None:
        if new:
            asyncio.get_running_loop().call_soon(cache.add, new.pop())

    cache.on_update = add_new
    await cache.refresh("*")
    await cache.refresh("*")

    assert dict(cache.items()) == {"acme.a": 1, "acme.b": 2}
    assert bucket.reads == 2


async def test_a_deletion_is_remembered_only_while_replicas_may_lag(
    cache: KvCache[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later the row in a list has been created again, even if its announcement was lost."""
    await cache.receive(KvEntry("acme.b", None, 4))
    await cache.receive(KvEntry("acme.gone", None, 5))
    await cache.read_all("*")
    assert cache.knows("acme.gone")
    assert cache.peek("acme.b") is None

    monkeypatch.setattr(kv_cache, "REPLICA_LAG_S", 0)
    await cache.read_all("*")

    assert not cache.knows("acme.gone")
    assert cache.peek("acme.b") == 2


async def test_a_row_missing_from_a_list_is_not_accepted_again_from_a_lagging_replica(
    bucket: StubBucket, cache: KvCache[int]
) -> None:
    """A newer revision is accepted."""
    await cache.refresh("*")
    lagging, bucket.entries = bucket.entries, []
    await cache.read_all("*")

    cache.add(lagging[0])
    bucket.entries = lagging
    await cache.read_all("*")
    assert dict(cache.items()) == {}

    cache.add(KvEntry("acme.a", b"7", 3))
    assert cache.peek("acme.a") == 7


async def test_an_announcement_restores_a_row_that_a_lagging_list_lacked(cache: KvCache[int]) -> None:
    """The row was read before its announcement arrived."""
    new = KvEntry("acme.new", b"9", 5)
    cache.add(new)
    await cache.read_all("*")
    assert cache.peek("acme.new") is None

    await cache.receive(new)
    await cache.read_all("*")
    assert cache.peek("acme.new") == 9


async def test_a_holder_of_a_value_sees_that_its_row_is_missing_from_a_list(
    bucket: StubBucket, cache: KvCache[int]
) -> None:
    """The value's `until` becomes 0."""
    await cache.refresh("*")
    held = cache.get_if_fresh("acme.a")
    bucket.entries = []
    await cache.read_all("*")

    assert held is not None
    assert held.until == 0
    assert cache.peek("acme.a") is None


async def test_after_a_reconnect_an_announced_row_still_outweighs_a_lagging_list(
    bucket: StubBucket, cache: KvCache[int]
) -> None:
    """A list that already had the row changes nothing about that."""
    new = KvEntry("acme.new", b"9", 5)
    await cache.receive(new)
    for entries in ([*bucket.entries, new], bucket.entries):
        bucket.entries = entries
        cache.expire()
        await cache.refresh("*")

    assert cache.peek("acme.new") == 9


async def test_after_a_reconnect_the_list_decides_if_asked_but_deletions_stay(cache: KvCache[int]) -> None:
    """Without the announcements kept, a missing row is removed, and a lagging list restores no deleted one."""
    await cache.receive(KvEntry("acme.new", b"9", 5))
    await cache.receive(KvEntry("acme.b", None, 4))
    cache.expire(keep_announced=False)
    await cache.refresh("*")

    assert dict(cache.items()) == {"acme.a": 1}


async def test_rows_that_expire_while_they_are_read_are_read_again(bucket: StubBucket, cache: KvCache[int]) -> None:
    """The list may be older than the reconnect."""
    bucket.on_list = cache.expire
    await cache.refresh("*")
    bucket.on_list = lambda: None
    await cache.refresh("*")
    await cache.refresh("*")

    assert bucket.reads == 2
