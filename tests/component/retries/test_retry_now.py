"""A pending retry on request: it replaces the scheduled one and starts at once."""

import pytest

from consumers.retries.reschedule import RetryNow
from oneprotect.bootstrap.resources import open_jetstream
from schemas import streams
from schemas.codes import Outcome
from tests.component.conftest import RunHere
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry


async def _scheduled(site: Site) -> int:
    return sum(".scheduled." in record.subject for record in await site.records(streams.RETRIES))


async def test_a_pending_retry_starts_at_once(site: Site, receiver: Scripted, oneprotect: RunHere) -> None:
    """The schedule for an hour later is gone, and the attempt has the next number."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])

    async with site.consumer():
        delivery = await site.deliver("orders")
        other = await site.deliver("orders")
        await until(lambda: _is_scheduled(site, 2), 20)
        ran = await oneprotect("retry", "--tenant", TENANT, "--id", delivery, "--json")
        await until(lambda: len(receiver.seen) == 3, 20)
        await until(lambda: _is_scheduled(site, 1), 20)

    assert (ran.code, ran.json["destinations"]) == (0, ["orders"])
    assert [(r.attempt, r.outcome) for r in await site.results(delivery)] == [
        (1, Outcome.RETRY_SCHEDULED),
        (2, Outcome.DELIVERED),
    ]
    assert [r.outcome for r in await site.results(other)] == [Outcome.RETRY_SCHEDULED]


async def _is_scheduled(site: Site, count: int) -> bool:
    return await _scheduled(site) == count


async def test_a_retry_that_is_about_to_start_is_left_to_the_server(site: Site, receiver: Scripted) -> None:
    """The server may be firing its schedule. A second due message would be sent at the same moment."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, retry_schedule_s=[1.9])
    async with open_jetstream(site.settings, name="closed") as closed:
        hurry = RetryNow(site.jetstream.connection, closed.publisher)  # which can publish nothing any more

    async with site.consumer():
        delivery = await site.deliver("orders")

        async def is_called() -> bool:
            return bool(await hurry.retry(TENANT, delivery)) or len(receiver.seen) == 2

        await until(is_called, 20)
        await until(site.is_settled, 20)

    assert receiver.ids() == [delivery] * 2


async def test_without_a_pending_retry_the_command_fails(oneprotect: RunHere) -> None:
    """The error names the command for failed deliveries."""
    ran = await oneprotect("retry", "--tenant", TENANT, "--id", "dlv_1", "--destination", "orders", "--json")

    assert ran.code == 1
    assert "oneprotect replay --id" in ran.error["error"]
