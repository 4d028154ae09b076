"""The API's cache of destinations."""

import pytest

from messaging.kv import KvEntry
from messaging.kv_cache import MAX_ENTRIES
from oneprotect.api.operations.destination_cache import DestinationCache
from tests.unit.messaging.kv_bucket import StubBucket

DOCUMENT = b'{"url":"https://receiver.acme.com/in","credential":"key","event_types":["*"]}'


async def following(bucket: StubBucket) -> DestinationCache:
    """Return a cache that follows the bucket."""
    cache = DestinationCache(bucket.bucket, bucket.connection)
    await cache.start()
    return cache


@pytest.mark.parametrize("count", [1, MAX_ENTRIES + 1])
async def test_no_destination_is_forgotten_when_one_is_created(count: int) -> None:
    """An event reaches every destination, however many the tenant has."""
    bucket = StubBucket(*(KvEntry(f"acme.d{number}", DOCUMENT, number + 1) for number in range(count)))
    cache = await following(bucket)
    assert len(await cache.subscribed("acme", "order.created")) == count

    await bucket.announce(KvEntry("acme.new", DOCUMENT, count + 1))
    assert len(await cache.subscribed("acme", "order.created")) == count + 1


async def test_a_destination_that_was_deleted_and_created_again_is_found_before_its_announcement() -> None:
    """Without a row the cache reads the bucket."""
    bucket = StubBucket(KvEntry("acme.orders", DOCUMENT, 1))
    cache = await following(bucket)
    assert await cache.has("acme", "orders")

    await bucket.announce(KvEntry("acme.orders", None, 2))
    bucket.entries = []
    deleted = await cache.has("acme", "orders")
    bucket.entries = [KvEntry("acme.orders", DOCUMENT, 3)]

    assert not deleted
    assert await cache.has("acme", "orders")


async def test_after_a_reconnect_a_new_destination_outweighs_a_lagging_list() -> None:
    """Events for a destination that was just announced are not lost."""
    bucket = StubBucket()
    cache = await following(bucket)
    await cache.subscribed("acme", "order.created")
    await bucket.announce(KvEntry("acme.new", DOCUMENT, 1))
    await cache.forget()

    assert await cache.subscribed("acme", "order.created") == ["new"]
