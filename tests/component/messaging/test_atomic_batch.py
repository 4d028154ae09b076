"""Atomic batches: concurrent callers, and a caller with a refused message."""

import asyncio
from collections import Counter

import pytest

from messaging.client.errors import BATCH_HAS_DUPLICATE, RejectedByServer, ServerUnavailable
from messaging.publication import Publication
from schemas import streams, subjects
from schemas.headers import HEADER_MSG_ID
from tests.support.site import TENANT, Site
from tests.support.waiting import until


def _batch(name: str, size: int) -> list[Publication]:
    return [
        Publication(subjects.requested(TENANT, f"d{number}"), b"{}", {HEADER_MSG_ID: f"{name}.{number}"})
        for number in range(size)
    ]


async def test_requests_of_concurrent_callers_are_all_stored(site: Site) -> None:
    """Hundreds of requests go in few batches; each caller gets its sequence, and nothing is stored twice."""
    batches = site.jetstream.publisher.batches(streams.WORK.name)

    async with asyncio.timeout(60):
        stored = await asyncio.gather(*(batches.store(_batch(str(number), 5)) for number in range(300)))

    records = {record.sequence: record for record in await site.records(streams.WORK)}
    assert len(records) == 1500
    for number, each in enumerate(stored):
        ids = [records[one.seq].headers[HEADER_MSG_ID] for one in each]
        assert ids == [f"{number}.{place}" for place in range(5)]


async def test_a_rejected_request_does_not_affect_the_others(site: Site) -> None:
    """A batch with an id that is there already is refused as a whole, and those beside it are stored."""
    batches = site.jetstream.publisher.batches(streams.WORK.name)
    await batches.store(_batch("first", 2))

    asked = [batches.store(_batch(name, 3)) for name in ("second", "first", "third", "fourth")]
    found = await asyncio.gather(*asked, return_exceptions=True)

    refused = found[1]
    assert isinstance(refused, RejectedByServer)
    assert refused.err_code == BATCH_HAS_DUPLICATE
    assert not any(isinstance(one, BaseException) for one in (found[0], found[2], found[3]))
    names = Counter(record.headers[HEADER_MSG_ID].partition(".")[0] for record in await site.records(streams.WORK))
    assert names == {"first": 2, "second": 3, "third": 3, "fourth": 3}


async def test_large_batches_of_one_tenant_delay_no_other(site: Site) -> None:
    """Another tenant's batch goes with the next one, although dozens of large ones wait."""
    batches = site.jetstream.publisher.batches(streams.WORK.name)
    other = [Publication(subjects.requested("globex", f"d{n}"), b"{}", {HEADER_MSG_ID: f"other.{n}"}) for n in range(5)]

    large = [asyncio.create_task(batches.store(_batch(f"large{number}", 900))) for number in range(20)]
    await asyncio.sleep(0)
    stored = await batches.store(other)

    assert sum(task.done() for task in large) <= 2
    assert stored[-1].seq <= 3 * 900 + 5
    await asyncio.gather(*large)


async def test_every_caller_gets_an_error_without_a_server(site: Site) -> None:
    """No caller waits forever."""
    await site.server.kill()
    batches = site.jetstream.publisher.batches(streams.WORK.name)

    async with asyncio.timeout(60):
        found = await asyncio.gather(*(batches.store(_batch(str(n), 2)) for n in range(10)), return_exceptions=True)

    assert all(isinstance(one, ServerUnavailable) for one in found)
    await site.server.restart()
    await until(lambda: site.jetstream.connection.is_connected, 20)
    assert len(await batches.store(_batch("afterwards", 2))) == 2


async def test_a_stream_of_an_older_version_is_reported_with_the_remedy(site: Site) -> None:
    """Until `apply` has been run, nothing is stored."""
    config = (await site.jetstream.connection.api(f"STREAM.INFO.{streams.WORK.name}"))["config"]
    await site.jetstream.connection.api(f"STREAM.UPDATE.{streams.WORK.name}", config | {"allow_atomic": False})

    with pytest.raises(ServerUnavailable, match="oneprotect apply"):
        await site.jetstream.publisher.batches(streams.WORK.name).store(_batch("early", 2))

    await site.apply()
    assert len(await site.jetstream.publisher.batches(streams.WORK.name).store(_batch("early", 2))) == 2
