"""Changes of a destination between deliveries: the next delivery follows them, although everything was in memory."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from standardwebhooks import Webhook

from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import streams
from schemas.codes import Code, Outcome
from schemas.configuration import Health
from schemas.headers import HEADER_DEFERRALS
from tests.support.receiver import Scripted, Seen
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

RESTING = Health(open_until=datetime.now(UTC) + timedelta(hours=1))
TRIED_BY_ANOTHER = Health(
    openings=1, consecutive_failures=1, trial_by="another", trial_until=datetime.now(UTC) + timedelta(hours=1)
)


@pytest.fixture
async def running(site: Site, receiver: Scripted) -> AsyncGenerator[None]:
    """A consumer that delivers to `others` without a stop, and that has delivered to `orders`."""
    async with Scripted() as others:
        await site.destination("orders", receiver.url)
        await site.destination("others", others.url)
        async with site.consumer():
            for _ in range(3):
                await _next(site, receiver)
            delivering = asyncio.create_task(_deliver_on(site))
            yield
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await delivering


async def _deliver_on(site: Site) -> None:
    while True:
        await site.deliver("others")


async def _next(site: Site, receiver: Scripted) -> Seen:
    """The request of one more delivery."""
    delivery = await site.deliver("orders")
    (seen,) = await until(lambda: receiver.of(delivery), 10)
    return seen


async def _ended(site: Site, delivery: str) -> tuple[Outcome, Code]:
    """How the first attempt of a delivery ended."""
    result, *_ = await until(lambda: site.results(delivery), 10)
    return result.outcome, result.code


@pytest.mark.usefixtures("running")
async def test_a_changed_url_and_headers_are_used(site: Site, receiver: Scripted) -> None:
    """URL, headers and response capture are those of the destination as it is now."""
    before = await _next(site, receiver)
    await site.destination("orders", receiver.url + "/new", headers={"x-team": "new"}, capture_response=True)
    after = await _next(site, receiver)

    (told,) = await until(lambda: site.results(after.id), 10)
    assert (before.path, before.headers.get("x-team")) == ("/in", None)
    assert (after.path, after.headers.get("x-team")) == ("/in/new", "new")
    assert told.response_body is not None


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("changed", ["destination", "credential"])
async def test_a_changed_credential_signs(site: Site, receiver: Scripted, changed: str) -> None:
    """Another credential, or another Secret of the credential, signs the next delivery."""
    other = write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=TENANT, names=["other"])
    credential = {"secret_ref": f"k8s://{NAMESPACE}/other/signing"}
    before = await _next(site, receiver)
    if changed == "destination":
        await site.jetstream.configuration.set_credential(TENANT, "other", credential, by="test")
        await site.destination("orders", receiver.url, credential="other")
    else:
        await site.jetstream.configuration.set_credential(TENANT, "key", credential, by="test")
    after = await _next(site, receiver)

    Webhook(site.secret).verify(before.body, before.headers)
    Webhook(other["other"]).verify(after.body, after.headers)


@pytest.mark.usefixtures("running")
async def test_a_disabled_or_deleted_destination_gets_nothing(site: Site, receiver: Scripted) -> None:
    """The next delivery is skipped or fails."""
    await _next(site, receiver)
    count = len(receiver.seen)
    await site.jetstream.configuration.disable_destination(TENANT, "orders", by="test", reason="test")
    skipped = await _ended(site, await site.deliver("orders"))
    await site.jetstream.configuration.delete_destination(TENANT, "orders", by="test")
    failed = await _ended(site, await site.deliver("orders"))

    assert skipped == (Outcome.SKIPPED, Code.DESTINATION_DISABLED)
    assert failed == (Outcome.FAILED, Code.DESTINATION_NOT_FOUND)
    assert len(receiver.seen) == count


@pytest.mark.usefixtures("running")
async def test_without_its_credential_a_delivery_waits(site: Site, receiver: Scripted) -> None:
    """Nothing is sent unsigned."""
    await _next(site, receiver)
    count = len(receiver.seen)
    await site.jetstream.credentials.delete(f"{TENANT}.key")
    ended = await _ended(site, await site.deliver("orders"))

    assert ended == (Outcome.RETRY_SCHEDULED, Code.SECRET_NOT_FOUND)
    assert len(receiver.seen) == count


@pytest.mark.usefixtures("running")
async def test_a_destination_becomes_ordered(site: Site, receiver: Scripted) -> None:
    """Its deliveries queue, and each is sent after the one before is settled."""
    await _next(site, receiver)
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, ordering="fifo")
    deliveries = [await site.deliver("orders") for _ in range(3)]
    await until(lambda: _are_queued(site, 3), 10)
    await until(lambda: receiver.of(deliveries[0]), 10)
    sent = [delivery for delivery in receiver.ids() if delivery in deliveries]
    receiver.hold.set()
    await until(lambda: receiver.of(deliveries[2]), 10)

    assert sent == deliveries[:1]
    assert [delivery for delivery in receiver.ids() if delivery in deliveries] == deliveries


async def _are_queued(site: Site, count: int) -> bool:
    return len(await site.records(streams.ORDERED)) == count


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("health", [RESTING, TRIED_BY_ANOTHER])
async def test_an_open_or_probed_circuit_breaker_holds_deliveries(
    site: Site, receiver: Scripted, health: Health
) -> None:
    """Nothing is sent until it closes, or until the other consumer's probe ends."""
    await _next(site, receiver)
    count, key = len(receiver.seen), f"{TENANT}.orders"
    await site.jetstream.health.put(key, msgspec.json.encode(health))
    await site.deliver("orders")
    await until(lambda: _is_deferred(site), 10)
    seen_meanwhile = len(receiver.seen)
    await site.jetstream.health.put(key, msgspec.json.encode(Health()))
    await _next(site, receiver)

    assert seen_meanwhile == count


async def _is_deferred(site: Site) -> bool:
    return any(HEADER_DEFERRALS in record.headers for record in await site.records(streams.RETRIES))
