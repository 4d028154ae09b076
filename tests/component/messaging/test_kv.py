"""Buckets and tables."""

import asyncio
from collections.abc import Iterable

import pytest
import structlog

from messaging import direct_get, kv
from messaging.kv import KvBucket, KvEntry, KvTable, WriteContention
from messaging.publication import Publication
from schemas import streams
from tests.support.site import Site
from tests.support.waiting import until


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


async def _put_all(bucket: KvBucket, keys: Iterable[str]) -> None:
    await asyncio.gather(*(bucket.put(key, key.encode()) for key in keys))


async def test_a_list_may_be_longer_than_one_reply_of_the_server(site: Site) -> None:
    """Each key is listed once, sorted, also while entries change, and the keys of other tenants are not."""
    bucket = KvBucket(site.jetstream.connection, site.jetstream.publisher, streams.RATES)
    keys = [f"acme.d{number:04}" for number in range(1500)]
    await _put_all(bucket, ["acme-eu.other", *keys])

    async def change() -> None:
        for _ in range(3):
            await _put_all(bucket, keys[::7])

    listed, _ = await asyncio.gather(bucket.list("acme.*"), change())
    assert [entry.key for entry in listed] == keys
    assert len(await bucket.list()) == 1501
    assert [entry.key for entry in await bucket.list("acme-eu.*")] == ["acme-eu.other"]
    assert await bucket.list_keys("acme.*") == keys
    assert [entry.value for entry in await bucket.get_all(["acme.d0007", "acme.missing"])] == [b"acme.d0007"]


async def test_deleted_keys_do_not_make_a_list_fail(site: Site) -> None:
    """Their markers expire, by a lifetime that the server applies."""
    bucket = KvBucket(site.jetstream.connection, site.jetstream.publisher, streams.DESTINATIONS)
    await asyncio.gather(*(bucket.delete(f"acme.d{number}") for number in range(1100)))
    await bucket.put("acme.kept", b"{}")

    assert [entry.key for entry in await bucket.list("acme.*")] == ["acme.kept"]
    markers = await site.records(streams.StreamConfig(name="KV_oneprotect_destinations", subjects=(), description=""))
    assert {record.headers.get("Nats-TTL") for record in markers} == {"120s", None}


async def test_the_marker_of_a_deleted_key_expires(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of the key, so that creating and deleting again and again takes no storage."""
    monkeypatch.setattr(kv, "MARKER_TTL_S", 1)
    bucket = site.jetstream.destinations
    await bucket.put("acme.gone", b"{}")
    await bucket.delete("acme.gone")

    assert await bucket.list_keys("acme.*") == ["acme.gone"]
    await until(lambda: _is_empty(bucket), 10)


async def _is_empty(bucket: KvBucket) -> bool:
    return await bucket.list_keys("acme.*") == []


async def test_apply_lets_the_markers_of_an_older_version_expire(site: Site) -> None:
    """A marker without a lifetime gets one; a key that has a value keeps it, and the next run changes nothing."""
    connection, publisher = site.jetstream.connection, site.jetstream.publisher
    bucket = KvBucket(connection, publisher, streams.TOKENS)
    for number in range(3):
        await publisher.publish(Publication(f"$KV.{bucket.name}.acme.d{number}", b"", {"KV-Operation": "DEL"}))
    await bucket.put("acme.d1", b"1")

    notes = [change.note for change in await site.apply() if change.name == bucket.name]
    again = [change.note for change in await site.apply() if change.name == bucket.name]

    assert (notes, again) == (["2 old markers of deleted keys expire soon"], [""])
    assert [entry.key for entry in await bucket.list()] == ["acme.d1"]


async def test_a_read_of_many_bytes_comes_in_small_batches_and_in_order(site: Site) -> None:
    """A batch ends with the message that reaches `BATCH_BYTES`. Each entry is read once, even a replaced one."""
    bucket = KvBucket(site.jetstream.connection, site.jetstream.publisher, streams.RATES)
    keys = [f"acme.d{number:03}" for number in range(100)]
    for key in reversed(keys):
        await bucket.put(key, key.encode() * 1000)
    records, more = await direct_get.read_batch(
        site.jetstream.connection, f"KV_{streams.RATES.name}", "$KV.>", first_sequence=1, size=100
    )
    assert more
    assert sum(len(record.data) for record in records[:-1]) <= direct_get.BATCH_BYTES

    found: list[str] = []
    async for entry in bucket.read_each(keys):
        found.append(entry.key)
        if entry.key == keys[3]:
            await bucket.put(keys[99], b"1")
    assert found == keys
    assert [entry.key for entry in await bucket.get_all(keys)] == keys
