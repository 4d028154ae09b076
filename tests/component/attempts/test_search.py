"""Attempts on record, read a page at a time, as the API and the console read them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from consumers.attempts import search
from consumers.attempts.search import AttemptFilter
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, encode
from tests.support.site import TENANT, Site

OTHER = "globex"


def recorded(
    number: int, *, tenant: str, destination: str, code: Code, response_body: str | None = None
) -> Publication:
    """A result as a consumer records it, of the delivery `dlv_<number>`."""
    delivery = f"dlv_{number}"
    event = DeliveryAttempted(
        specversion="1.0",
        id=f"{delivery}.1",
        source="/tests",
        time=datetime.now(UTC),
        tenant=tenant,
        data=AttemptResult(
            delivery=delivery,
            destination=destination,
            event_type="invoice.paid",
            attempt=1,
            outcome=Outcome.DELIVERED if code is Code.HTTP_2XX else Outcome.FAILED,
            code=code,
            started_at=datetime.now(UTC),
            duration_ms=1,
            worker="test",
            response_body=response_body,
        ),
    )
    return Publication(subjects.attempted(tenant, destination, delivery), encode(event), {})


async def _record(site: Site, numbers: range, say: Callable[[int], tuple[str, str, Code]]) -> None:
    for number in numbers:
        tenant, destination, code = say(number)
        await site.jetstream.publisher.publish(recorded(number, tenant=tenant, destination=destination, code=code))


def _mixed(number: int) -> tuple[str, str, Code]:
    """Nine of ten are the tenant's, one of fifty early ones goes to `rare`, and one code is there once."""
    tenant = OTHER if number % 10 == 9 else TENANT
    destination = "rare" if number % 50 == 0 and number < 1000 else "orders"
    return tenant, destination, Code.HTTP_410 if number == 3 else Code.HTTP_5XX if number % 7 == 0 else Code.HTTP_2XX


@pytest.mark.parametrize(
    "sought",
    [
        AttemptFilter(tenant=TENANT),
        AttemptFilter(tenant=TENANT, destination="rare"),
        AttemptFilter(tenant=TENANT, destination="none"),
        AttemptFilter(tenant=TENANT, codes=frozenset({Code.HTTP_410})),
        AttemptFilter(tenant=TENANT, outcomes=frozenset({Outcome.FAILED})),
        AttemptFilter(tenant=TENANT, delivery="dlv_1712"),
        AttemptFilter(),
    ],
    ids=["tenant", "rare destination", "no destination", "rare code", "outcome", "delivery", "all"],
)
async def test_pages_contain_each_matching_attempt_once_newest_first(site: Site, sought: AttemptFilter) -> None:
    """Each page reads a bounded number of messages, whatever the filter."""
    await _record(site, range(2000), _mixed)

    found: list[int] = []
    before, pages = None, 0
    while True:
        page = await search.read_page(site.jetstream.connection, sought, limit=40, before=before, examine=300)
        assert len(page.items) <= 40
        found += [int(one.event.data.delivery.removeprefix("dlv_")) for one in page.items]
        before, pages = page.cursor, pages + 1
        if before is None:
            break

    expected = [number for number in reversed(range(2000)) if _fits(sought, number)]
    assert found == expected
    assert pages <= 2000 / 150 + len(expected) / 40 + 1


def _fits(sought: AttemptFilter, number: int) -> bool:
    tenant, destination, code = _mixed(number)
    return (
        sought.tenant in (None, tenant)
        and sought.destination in (None, destination)
        and sought.delivery in (None, f"dlv_{number}")
        and (not sought.codes or code in sought.codes)
        and (not sought.outcomes or (code is not Code.HTTP_2XX))
    )


async def test_a_search_for_rare_attempts_ends_with_a_cursor(site: Site) -> None:
    """The search stops at its work limit and returns the cursor to continue from."""
    await _record(site, range(2000), _mixed)
    sought = AttemptFilter(tenant=TENANT, codes=frozenset({Code.HTTP_410}))

    page = await search.read_page(site.jetstream.connection, sought, examine=600)

    assert page.items == []
    assert page.cursor is not None
    assert 1 < page.cursor < 1600
    assert page.reached_at is not None


async def test_times_are_those_at_which_attempts_were_stored(site: Site) -> None:
    """From `since` on, and before `until`."""
    await _record(site, range(100), _mixed)
    since = datetime.now(UTC)
    await _record(site, range(100, 200), _mixed)
    until = datetime.now(UTC)
    await _record(site, range(200, 300), _mixed)

    async def numbers(sought: AttemptFilter) -> set[int]:
        page = await search.read_page(site.jetstream.connection, sought, limit=500)
        assert page.cursor is None
        return {int(one.event.data.delivery.removeprefix("dlv_")) for one in page.items}

    assert await numbers(AttemptFilter(since=since, until=until)) == set(range(100, 200))
    assert await numbers(AttemptFilter(since=since)) == set(range(100, 300))
    assert await numbers(AttemptFilter(until=since)) == set(range(100))
    assert await numbers(AttemptFilter(since=until + timedelta(hours=1))) == set()
    assert await numbers(AttemptFilter(until=since - timedelta(hours=1))) == set()


async def test_an_empty_stream_has_an_empty_page(site: Site) -> None:
    """The page has neither attempts nor a cursor."""
    page = await search.read_page(site.jetstream.connection, AttemptFilter(tenant=TENANT))

    assert (page.items, page.cursor) == ([], None)


async def test_a_page_of_large_attempts_ends_early_and_the_next_one_continues(site: Site) -> None:
    """Every attempt is on one page, newest first, and a search reads a bounded number of bytes."""
    text = "x" * 8000
    for number in range(100):
        one = recorded(number, tenant=TENANT, destination="orders", code=Code.HTTP_5XX, response_body=text)
        await site.jetstream.publisher.publish(one)
    pages: list[list[str]] = []
    before = None
    while not pages or before is not None:
        found = await search.read_page(
            site.jetstream.connection, AttemptFilter(tenant=TENANT), limit=100, before=before
        )
        pages.append([one.event.data.delivery for one in found.items])
        before = found.cursor

    assert [one for page in pages for one in page] == [f"dlv_{number}" for number in reversed(range(100))]
    assert [len(page) for page in pages[:-1]] == [len(pages[0])] * (len(pages) - 1)
    assert len(pages) == 4
    nothing = AttemptFilter(tenant=TENANT, codes=frozenset({Code.HTTP_410}))
    bounded = await search.read_page(site.jetstream.connection, nothing, limit=1, examine=100)
    assert bounded.items == []
    assert bounded.cursor is not None
