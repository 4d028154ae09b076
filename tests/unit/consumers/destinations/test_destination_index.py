"""The index of destinations."""

import msgspec
import pytest

from consumers.destinations import destination_index
from consumers.destinations.destination_index import DestinationIndex
from messaging.kv import KvEntry
from messaging.kv_cache import MAX_ENTRIES
from tests.unit.messaging.kv_bucket import StubBucket

DOCUMENT = b'{"url":"https://receiver.acme.com/in","credential":"key","event_types":["*"]}'


async def following(bucket: StubBucket) -> DestinationIndex:
    """Return a index that follows the bucket."""
    index = DestinationIndex(bucket.bucket, bucket.connection)
    await index.start()
    return index


@pytest.mark.parametrize("count", [1, MAX_ENTRIES + 1])
async def test_no_destination_is_forgotten_when_one_is_created(count: int) -> None:
    """An event reaches every destination, however many the tenant has."""
    bucket = StubBucket(*(KvEntry(f"acme.d{number}", DOCUMENT, number + 1) for number in range(count)))
    index = await following(bucket)
    assert len(await index.subscribed("acme", "order.created")) == count

    await bucket.announce(KvEntry("acme.new", DOCUMENT, count + 1))
    assert len(await index.subscribed("acme", "order.created")) == count + 1


async def test_a_destination_that_was_deleted_and_created_again_is_found_before_its_announcement() -> None:
    """Without a row the index reads the bucket."""
    bucket = StubBucket(KvEntry("acme.orders", DOCUMENT, 1))
    index = await following(bucket)
    assert await index.has("acme", "orders")

    await bucket.announce(KvEntry("acme.orders", None, 2))
    bucket.entries = []
    deleted = await index.has("acme", "orders")
    bucket.entries = [KvEntry("acme.orders", DOCUMENT, 3)]

    assert not deleted
    assert await index.has("acme", "orders")


async def test_after_a_reconnect_a_new_destination_outweighs_a_lagging_list() -> None:
    """Events for a destination that was just announced are not lost."""
    bucket = StubBucket()
    index = await following(bucket)
    await index.subscribed("acme", "order.created")
    await bucket.announce(KvEntry("acme.new", DOCUMENT, 1))
    await index.forget()

    assert await index.subscribed("acme", "order.created") == ["new"]


def _document(credential: str, *event_types: str, enabled: bool = True) -> bytes:
    fields = {"url": "https://acme.com/in", "credential": credential, "event_types": event_types, "enabled": enabled}
    return msgspec.json.encode(fields)


async def test_the_index_follows_every_change_of_a_destination() -> None:
    """Subscriptions and credentials are those of the newest row; a disabled destination keeps its credential."""
    bucket = StubBucket(KvEntry("acme.a", _document("key", "order.*"), 1), KvEntry("acme.b", _document("key", "*"), 2))
    index = await following(bucket)
    assert await index.subscribed("acme", "order.created") == ["a", "b"]
    assert list(await index.users("acme", "key")) == ["a", "b"]

    await bucket.announce(KvEntry("acme.a", _document("other", "invoice.paid"), 3))
    await bucket.announce(KvEntry("acme.b", _document("key", "*", enabled=False), 4))
    assert await index.subscribed("acme", "order.created") == []
    assert await index.subscribed("acme", "invoice.paid") == ["a"]
    assert [list(await index.users("acme", name)) for name in ("key", "other")] == [["b"], ["a"]]

    await bucket.announce(KvEntry("acme.a", None, 5))
    assert await index.subscribed("acme", "invoice.paid") == []
    assert await index.users("acme", "other") == {}
    assert await index.count("acme") == 1
    assert await index.count_subscriptions("acme", "new") == (0, 1), "a disabled destination counts"
    assert await index.count_subscriptions("acme", "b") == (1, 0)
    assert bucket.reads == 1, "announcements are enough"


async def test_the_largest_tenant_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its destinations are read again when they are next needed. What it has counts once."""
    monkeypatch.setattr(destination_index, "MAX_WEIGHT", 10)
    large = [KvEntry(f"large.d{number}", _document("key", "a", "b"), 1) for number in range(3)]
    bucket = StubBucket(*large, KvEntry("small.d", _document("key"), 2), KvEntry("acme.d", _document("key", "a"), 3))
    index = await following(bucket)
    counts = [await index.count(tenant) for tenant in ("large", "small", "acme")]

    assert (counts, index.tenants()) == ([3, 1, 1], {"small", "acme"})
    await bucket.announce(KvEntry("large.new", _document("key"), 4))
    assert await index.count("large") == 3
    assert index.tenants() == {"large", "small"}


async def test_destinations_are_not_missed_between_a_read_and_the_first_announcement() -> None:
    """An index that does not follow the bucket yet reads it again for each caller."""
    bucket = StubBucket(KvEntry("acme.a", DOCUMENT, 1))
    index = DestinationIndex(bucket.bucket, bucket.connection)
    before = await index.count("acme")
    bucket.entries.append(KvEntry("acme.b", DOCUMENT, 2))
    again = await index.count("acme")
    bucket.entries.append(KvEntry("acme.c", DOCUMENT, 3))
    await index.start()

    assert (before, again, await index.count("acme")) == (1, 2, 3)
