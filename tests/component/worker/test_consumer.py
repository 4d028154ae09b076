"""The consumer: bounds, refresh, redelivery, drain, and life without NATS."""

import asyncio
import time
from pathlib import Path

import msgspec

from messaging.pull_consumer import fetch
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from tests.support.receiver import HANG, Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until


async def test_a_delivery_is_signed_and_its_result_has_nothing_private(site: Site, receiver: Scripted) -> None:
    """One request, one POST, one result; no path, query, ref, signature or header is in the result."""
    await site.destination(
        "orders", receiver.url + "/hidden-path?token=hidden-query", headers={"x-team": "hidden-header"}
    )

    async with site.consumer():
        delivery = await site.deliver("orders", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
        await until(site.is_settled, 10)

    (seen,) = receiver.seen
    (record,) = await site.records(streams.ATTEMPTS)
    (result,) = await site.results(delivery)
    assert seen.headers["user-agent"].startswith("OneProtect-Delivery/")
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-team"] == "hidden-header"
    assert "traceparent" not in seen.headers
    assert record.headers["traceparent"].startswith("00-0af7")
    assert (result.outcome, result.attempt, result.http_status) == (Outcome.DELIVERED, 1, 200)
    assert result.signed_with == ("current",)
    assert result.url_host == "127.0.0.1"
    for private in (b"hidden", b"v1,", b"k8s://", site.secret.encode()):
        assert private not in record.data


async def test_a_changed_destination_is_used_at_once(site: Site, receiver: Scripted) -> None:
    """The consumer's cache follows the bucket, without a restart."""
    await site.destination("orders", receiver.url + "/one")

    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1)
        await site.destination("orders", receiver.url + "/two")
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 2)

    assert [seen.path for seen in receiver.seen] == ["/in/one", "/in/two"]


async def test_a_slow_destination_is_bounded_and_delays_no_other(site: Site, receiver: Scripted) -> None:
    """A destination that hangs fills its own slots only."""
    async with Scripted([HANG]) as slow:
        await site.destination("slow", slow.url, max_in_flight=3, timeout_s=30)
        await site.destination("quick", receiver.url)

        async with site.consumer_process() as consumer:
            for _ in range(50):
                await site.deliver("slow")
            await until(lambda: len(slow.seen) == 3, 20)
            for _ in range(20):
                await site.deliver("quick")
            await until(lambda: len(receiver.seen) == 20, 10)
            consumer.kill()

    assert len(slow.seen) == 3


async def test_a_redelivered_request_with_a_recorded_result_is_not_sent_again(site: Site, receiver: Scripted) -> None:
    """The recorded result settles it, and the redelivery is recorded as suppressed."""
    await site.destination("orders", receiver.url)
    delivery = await site.deliver("orders")
    # Somebody took it, delivered it and recorded the result, and died before acknowledging.
    first = await _taken_by_another(site)
    result = {
        "delivery": delivery, "destination": "orders", "event_type": "invoice.paid", "attempt": 1,
        "outcome": "delivered", "code": "http.2xx", "started_at": "2026-01-01T00:00:00Z", "duration_ms": 1,
        "worker": "another",
    }  # fmt: skip
    event = {
        "specversion": "1.0", "id": "x", "source": "/x", "time": "2026-01-01T00:00:00Z", "tenant": TENANT,
        "datacontenttype": "application/json", "type": "oneprotect.delivery.attempted.v1", "data": result,
    }  # fmt: skip
    await site.jetstream.publisher.put(subjects.attempted(TENANT, "orders", delivery), msgspec.json.encode(event))
    assert first == 1

    async with site.consumer():
        await until(site.is_settled, 10)

    assert [r.outcome for r in await site.results(delivery)] == [Outcome.DELIVERED, Outcome.SUPPRESSED]
    assert receiver.seen == []


async def _taken_by_another(site: Site) -> int:
    messages = await fetch(site.jetstream.connection, stream=streams.WORK.name, consumer="delivery", batch=1)
    return len(messages)


async def test_sigterm_under_load_finishes_requests_in_flight(
    tmp_path: Path, nats_server: EmbeddedNats, receiver: Scripted
) -> None:
    """The consumer exits with 0 in time without duplicates, and the next consumer delivers the remainder at once."""
    receiver.hold = asyncio.Event()
    async with Site(tmp_path, nats_server, ack_wait_s="60") as site:
        await site.destination("orders", receiver.url, max_in_flight=5)
        async with site.consumer_process() as consumer:
            deliveries = [await site.deliver("orders") for _ in range(40)]
            await until(lambda: len(receiver.seen) == 5, 20)

            consumer.terminate()
            await until(lambda: consumer.says("drain.started"))
            receiver.hold.set()
            began = time.monotonic()
            code = await consumer.wait()
            took_s = time.monotonic() - began

        assert code == 0, consumer.output.decode()
        assert took_s < site.settings.delivery.drain_timeout_s
        assert len(receiver.seen) == 5
        assert [r.outcome for r in await site.results()] == [Outcome.DELIVERED] * 5
        began = time.monotonic()
        async with site.consumer():
            await until(site.is_settled, 20)
        assert sorted(receiver.ids()) == sorted(deliveries), "each one exactly once"
        assert time.monotonic() - began < site.settings.delivery.ack_wait_s, "handed back, not waited for"


async def test_a_consumer_waits_for_nats(site: Site, receiver: Scripted) -> None:
    """It logs when it retries, and starts without a restart."""
    await site.destination("orders", receiver.url)
    await site.deliver("orders")
    await site.server.kill()

    async with site.consumer_process() as consumer:
        await until(lambda: consumer.says("nats.unreachable"), 10)
        assert not consumer.says("consumer.started")
        await site.server.restart()
        await until(lambda: receiver.seen, 20)

    assert len(receiver.seen) == 1


async def test_a_restart_of_nats_loses_nothing(site: Site, receiver: Scripted) -> None:
    """The consumer pulls again, and every accepted delivery arrives."""
    await site.destination("orders", receiver.url)
    async with site.consumer_process() as consumer:
        first = [await site.deliver("orders") for _ in range(20)]
        await until(lambda: len(receiver.seen) == 20, 20)
        await site.server.kill()
        await site.server.restart()
        await until(lambda: site.jetstream.connection.is_connected, 20)
        second = [await site.deliver("orders") for _ in range(20)]
        await until(lambda: set(receiver.ids()) >= {*first, *second}, 20)
        await until(site.is_settled, 20)
        await until(lambda: consumer.says("nats.reconnected"))

    assert sorted(receiver.ids()) == sorted([*first, *second])


async def test_overflow_is_fed_back_as_its_destination_drains(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Deliveries that the work stream refused arrive through the overflow."""
    async with (
        Scripted() as receiver,
        Site(tmp_path, nats_server, work_per_destination="10") as site,
    ):
        await site.destination("orders", receiver.url)
        deliveries = [await site.deliver("orders") for _ in range(50)]
        overflowed = len(await site.records(streams.OVERFLOW))

        async with site.consumer():
            await until(site.is_settled, 20)

    assert overflowed == 40
    assert sorted(receiver.ids()) == sorted(deliveries)


async def test_an_undecodable_destination_counts_as_absent(site: Site, receiver: Scripted) -> None:
    """It gets no delivery; the delivery is kept and can be replayed."""
    await site.jetstream.destinations.put(f"{TENANT}.orders", b'{"url": 1}')

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    assert result.code is Code.DESTINATION_NOT_FOUND
    assert receiver.seen == []


async def test_pulling_continues_when_a_deleted_consumer_is_back(site: Site, receiver: Scripted) -> None:
    """The server ends the pull request with a status, and the watchdog repeats it."""
    await site.destination("orders", receiver.url)
    async with site.consumer_process() as consumer:
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1, 20)
        await until(site.is_settled, 20)
        await site.jetstream.connection.api(
            f"CONSUMER.DELETE.{streams.WORK_CONSUMER.stream}.{streams.WORK_CONSUMER.name}"
        )
        await until(lambda: consumer.says("pull.refused"), 10)
        await site.apply()
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 2, 20)


async def test_a_consumer_may_be_started_before_apply(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The log names the missing command, and the consumer starts afterwards."""
    site = Site(tmp_path, nats_server)
    async with site.consumer_process() as consumer, Scripted() as receiver:
        await until(lambda: consumer.says("oneprotect apply"), 10)
        async with site:
            await site.destination("orders", receiver.url)
            await site.deliver("orders")
            await until(lambda: receiver.seen, 20)


async def test_sigterm_without_nats_ends_at_once(site: Site) -> None:
    """A consumer that waits for its server exits with 0."""
    await site.server.kill()
    async with site.consumer_process() as consumer:
        await until(lambda: consumer.says("nats.unreachable"), 10)
        consumer.terminate()
        code = await asyncio.wait_for(consumer.wait(), 30)

    assert code == 0
