"""The archive: delivered deliveries are stored completely and can be replayed."""

import asyncio
import base64

import msgspec
import pytest

from consumers.retention import archive
from consumers.retention.archive import ArchiveBatcher, ArchivedDelivery, ArchivePublication, read_archive_batch
from messaging.admin import topology
from messaging.admin.topology import StreamLimits
from messaging.client.connection import connect
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.client.headers import block_of
from messaging.direct_get import StoredMessage
from messaging.publication import OnStored, Publication, PublishAck
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Outcome
from schemas.configuration import Replay, ReplayFilter, ReplayState
from schemas.events import decode_request
from schemas.headers import HEADER_ATTEMPT
from tests.component.conftest import RunHere
from tests.support.receiver import Scripted
from tests.support.retained_deliveries import keep, pack
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

DELIVERED = ReplayFilter(outcomes=("delivered",))


async def _replay(site: Site, chosen: ReplayFilter) -> Replay:
    replay, row = await site.jetstream.replayer.begin(TENANT, chosen, by="test")
    return await site.jetstream.replayer.run(TENANT, replay, row)


async def _copies(site: Site) -> list[StoredMessage]:
    return [one for packed in await site.records(streams.DELIVERED) for one in read_archive_batch(packed)]


async def test_a_delivered_delivery_is_archived_as_requested(site: Site, receiver: Scripted) -> None:
    """The archive has the document and the producer's headers after a delivery at any attempt."""
    await site.destination("orders", receiver.url)
    receiver.script = [500, 200]
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"

    async with site.consumer():
        first = await site.deliver("orders", payload=b'{"n":  1}', traceparent=trace)
        second = await site.deliver("orders", payload=b'"2"')
        await until(lambda: len(receiver.seen) == 4, 20)
        await until(site.is_settled, 20)

    copies = {decode_request(one.data).id: one for one in await _copies(site)}
    assert set(copies) == {first, second}
    assert decode_request(copies[first].data).data.body() == b'{"n":  1}'
    assert copies[first].headers["traceparent"] == trace
    assert copies[first].headers[HEADER_ATTEMPT] == "2"


async def test_a_replayed_delivered_delivery_keeps_its_id(site: Site, receiver: Scripted) -> None:
    """A replay sends the delivery with the same id and the next attempt number, with retries."""
    await site.destination("orders", receiver.url, retry_schedule_s=[0.1])

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(site.is_settled, 20)
        receiver.script = [500, 500, 200]
        row = await _replay(site, DELIVERED)
        await until(lambda: len(receiver.seen) == 3, 20)
        await until(site.is_settled, 20)

    results = await site.results(delivery)
    assert (row.replayed, row.skipped, row.state) == (1, 0, ReplayState.FINISHED)
    assert [result.attempt for result in results] == [1, 2, 3]
    assert [result.outcome for result in results] == [
        Outcome.DELIVERED,
        Outcome.RETRY_SCHEDULED,
        Outcome.DELIVERED,
    ]
    assert {seen.id for seen in receiver.seen} == {delivery}
    assert len({seen.body for seen in receiver.seen}) == 1


async def test_only_the_latest_copy_is_replayed(site: Site, receiver: Scripted) -> None:
    """Each replay sends a delivery once, and skips copies older than its latest attempt."""
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        for count in (2, 3):
            await until(site.is_settled, 20)
            row = await _replay(site, DELIVERED)
            await until(lambda count=count: len(receiver.seen) == count, 20)  # type: ignore[misc]
            assert (row.replayed, row.skipped) == (1, count - 2)
        await until(site.is_settled, 20)

    assert len(receiver.seen) == 3


async def test_an_ordered_destination_is_not_slowed_down(site: Site, receiver: Scripted) -> None:
    """Where each delivery waits for the one before, a copy goes at once: no pack waits for more."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, ordering="fifo", retry_schedule_s=[0.1])

    async with site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(5)]
        await until(lambda: _copies_of(site, 5), 30)

    packs = await site.records(streams.DELIVERED)
    copies = [one for packed in packs for one in read_archive_batch(packed)]
    assert [decode_request(one.data).id for one in copies] == deliveries
    assert {one.headers[HEADER_ATTEMPT] for one in copies} == {"2"}
    assert len(packs) == 5


async def _copies_of(site: Site, count: int) -> bool:
    return len(await _copies(site)) == count


async def test_failed_and_delivered_are_two_replays(site: Site, receiver: Scripted) -> None:
    """A replay selects delivered deliveries only if its outcomes name them."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        delivered = await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(site.is_settled, 20)
    (failed,) = await keep(site)
    (skipped,) = await keep(site, outcome=Outcome.SKIPPED)

    async def taken(*outcomes: str) -> set[str]:
        chosen = msgspec.convert({"outcomes": outcomes}, ReplayFilter)
        return {kept.id async for kept in site.jetstream.replayer.find_deliveries(TENANT, chosen)}

    assert await taken() == {failed, skipped}
    assert await taken("failed") == {failed}
    assert await taken("skipped") == {skipped}
    assert await taken("delivered") == {delivered}
    with pytest.raises(msgspec.ValidationError, match="cannot be combined"):
        await taken("delivered", "failed")


async def test_filters_apply_within_batches(site: Site) -> None:
    """Filters select by destination, id and tenant within and between batches, and may select nothing."""
    first, second, third = await pack(site, 3)
    (other,) = await pack(site, 1, destination="invoices")
    await pack(site, 1, tenant="globex")

    async def taken(**conditions: object) -> set[str]:
        chosen = msgspec.convert(conditions | {"outcomes": ["delivered"]}, ReplayFilter)
        return {kept.id async for kept in site.jetstream.replayer.find_deliveries(TENANT, chosen)}

    assert await taken() == {first, second, third, other}
    assert await taken(destination="invoices") == {other}
    assert await taken(ids=[second, other]) == {second, other}
    assert await taken(codes=["http.5xx"]) == set()
    assert await taken(event_types=["invoice.paid"], destination="orders") == {first, second, third}


async def test_a_replay_stopped_within_a_batch_continues_within_it(site: Site) -> None:
    """An interrupted replay requests each delivery once, and its counts are correct."""
    deliveries = await pack(site, 30)
    replayer = site.jetstream.replayer
    replay, row = await replayer.begin(TENANT, DELIVERED, by="test")

    running = asyncio.create_task(replayer.run(TENANT, replay, row, rate_per_s=50))
    await until(lambda: _has_requested(site, 10), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    before = await replayer.get(TENANT, replay)
    again, row = await replayer.begin(TENANT, DELIVERED, by="test")
    row = await replayer.run(TENANT, again, row)

    requested = [decode_request(record.data).id for record in await site.records(streams.WORK)]
    assert (before.cursor, before.replayed) == (0, 0), "the cursor stands before a pack until all of it is done"
    assert (again, row.replayed, row.skipped) == (replay, 30, 0)
    assert sorted(requested) == sorted(deliveries)


async def _has_requested(site: Site, count: int) -> bool:
    return await site.waiting() >= count


async def test_a_crash_before_the_batch_is_stored_loses_no_copy(site: Site, receiver: Scripted) -> None:
    """The next consumer archives the copy of a killed one and sends nothing twice."""
    await site.destination("orders", receiver.url)

    async with site.consumer_process() as consumer:
        await until(lambda: consumer.says("consumer.started"), 20)
        await site.jetstream.connection.api(f"STREAM.DELETE.{streams.DELIVERED.name}")
        deliveries = {await site.deliver("orders") for _ in range(5)}
        await until(lambda: len(receiver.seen) == 5, 20)
        await until(lambda: consumer.says("publish.failed"), 20)
    assert await site.waiting() == 5, "a request stays until its copy is stored"
    await site.apply()
    async with site.consumer():
        await until(site.is_settled, 20)

    assert {decode_request(one.data).id for one in await _copies(site)} == deliveries
    assert len(receiver.seen) == 5


async def test_without_an_archive_nothing_is_kept_and_nothing_waits(
    tmp_path_factory: pytest.TempPathFactory, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """With ONEPROTECT_ARCHIVE_DAYS=0 deliveries are settled without a copy, and there is no stream for one."""
    async with Site(tmp_path_factory.mktemp("site"), nats_server, archive_days="0") as site, site.consumer():
        await site.destination("orders", receiver.url)
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(site.is_settled, 20)
        names = (await site.jetstream.connection.api("STREAM.NAMES"))["streams"]

    assert streams.DELIVERED.name not in names


async def test_a_missing_stream_delays_nothing(site: Site, receiver: Scripted) -> None:
    """A consumer without an archive stream, as after an upgrade without `apply`, still delivers."""
    await site.destination("orders", receiver.url)
    await site.jetstream.connection.api(f"STREAM.DELETE.{streams.DELIVERED.name}")

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(site.is_settled, 20)


async def test_apply_creates_updates_and_keeps_an_archive(nats_server: EmbeddedNats) -> None:
    """`apply` sets the age and size of the archive, and keeps its content when it is disabled."""

    async def change(limits: StreamLimits) -> topology.TopologyChange:
        changes = await topology.apply(connection, replicas=1, work_per_destination=10, ack_wait_s=30, limits=limits)
        return next(change for change in changes if change.name == streams.DELIVERED.name)

    async with connect(nats_server.url, name="test") as connection:
        off = await change(StreamLimits(archive_days=0))
        made = await change(StreamLimits(archive_days=7, archive_bytes=2**24))
        config = (await connection.api(f"STREAM.INFO.{streams.DELIVERED.name}"))["config"]
        longer = await change(StreamLimits(archive_days=8, archive_bytes=2**24))
        left = await change(StreamLimits(archive_days=0))
        after = (await connection.api(f"STREAM.INFO.{streams.DELIVERED.name}"))["config"]

    assert (off.action, made.action, longer.action, left.action) == ("none", "create", "update", "none")
    assert (config["max_age"], config["max_bytes"], config["compression"]) == (7 * 86_400 * 10**9, 2**24, "s2")
    assert after["max_age"] == 8 * 86_400 * 10**9
    assert "not created" in off.note
    assert "stay until they age out" in left.note


async def test_the_command_replays_delivered_deliveries(site: Site, oneprotect: RunHere) -> None:
    """`replay --delivered` shows counts and a sample, requests each once, and differs from `--outcome`."""
    deliveries = await pack(site, 12)

    shown = await oneprotect("replay", "--tenant", TENANT, "--delivered", "--dry-run", "--json")
    done = await oneprotect("replay", "--tenant", TENANT, "--delivered", "--json")
    both = await oneprotect("replay", "--tenant", TENANT, "--delivered", "--outcome", "failed", "--json")

    preview = shown.json
    assert (preview["replayable"], preview["superseded"], len(preview["sample"])) == (12, 0, 10)
    assert preview["by"] == [{"destination": "orders", "code": "http.2xx", "count": 12}]
    assert (done.code, done.json["replayed"]) == (0, 12)
    assert len(await site.records(streams.WORK)) == len(deliveries)
    assert both.code == 2
    assert "--delivered: conflicts with --outcome" in both.error["error"]


class _Stream:
    """A stream that accepts publications and responds on request."""

    def __init__(self) -> None:
        self.sent: list[Publication] = []
        self.waiting: list[OnStored] = []

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Take it."""
        self.sent.append(publication)
        self.waiting.append(on_stored)


def _copy(number: int, size: int = 10) -> ArchivePublication:
    return ArchivePublication(
        subjects.delivered(TENANT, "orders"), b"%d" % number + b"x" * size, {}, block_of({"a": "b"})
    )


def _numbers(pack: Publication) -> list[int]:
    copies = msgspec.msgpack.decode(pack.payload, type=list[ArchivedDelivery])
    return [int(one.document.rstrip(b"x")) for one in copies]


async def test_a_batch_is_bounded_and_each_copy_gets_its_result() -> None:
    """A batch has a maximum count and size, and a large copy has its own batch."""
    stream = _Stream()
    heard: dict[int, PublishAck | JetStreamError] = {}

    def send(packing: ArchiveBatcher, number: int, size: int = 10) -> None:
        def on_stored(result: PublishAck | JetStreamError) -> None:
            heard[number] = result

        packing.send(_copy(number, size), on_stored)

    async with ArchiveBatcher(stream, find=_there_is_one) as packing:
        for number in range(archive.MAX_BATCH_DELIVERIES + 1):
            send(packing, number)
        assert [len(_numbers(one)) for one in stream.sent] == [archive.MAX_BATCH_DELIVERIES]
        send(packing, 1000, archive.MAX_BATCH_BYTES)
        send(packing, 1001)
        await until(lambda: len(stream.sent) == 4)
        results: list[PublishAck | JetStreamError] = [
            PublishAck("S", 1),
            ServerUnavailable("no answer"),
            PublishAck("S", 2),
        ]
        for on_stored, result in zip(stream.waiting, results, strict=False):
            on_stored(result)

    assert [_numbers(one) for one in stream.sent[1:]] == [[archive.MAX_BATCH_DELIVERIES], [1000], [1001]]
    assert heard[0] == heard[archive.MAX_BATCH_DELIVERIES - 1] == PublishAck("S", 1)
    assert isinstance(heard[archive.MAX_BATCH_DELIVERIES], ServerUnavailable)
    assert 1001 not in heard


async def test_without_an_archive_a_copy_is_dropped_at_once() -> None:
    """A copy without an archive delays nothing."""
    stream, heard = _Stream(), list[PublishAck | JetStreamError]()

    async def there_is_none() -> bool:
        return False

    def on_stored(result: PublishAck | JetStreamError) -> None:
        heard.append(result)

    async with ArchiveBatcher(stream, find=there_is_none) as packing:
        packing.send(_copy(1), on_stored)

    assert [type(result) for result in heard] == [PublishAck]
    assert stream.sent == []


async def test_other_publications_are_sent_at_once() -> None:
    """Results, schedules and kept deliveries are not batched."""
    stream = _Stream()
    publication = Publication(subjects.failed(TENANT, "orders", "dlv_1"), base64.b64encode(b"x"), {})

    async with ArchiveBatcher(stream, find=_there_is_one) as packing:
        packing.send(publication, _ignore)

    assert stream.sent == [publication]


async def _there_is_one() -> bool:
    return True


def _ignore(_: PublishAck | JetStreamError) -> None:
    """Ignore the result."""
