"""Lists that are longer than one reply of the server (1,024 keys): everything works on them, for every tenant."""

import msgspec
import pytest

from consumers.destinations.destination_index import MAX_SUBSCRIPTIONS
from schemas.configuration import Destination
from tests.isolation.long_lists import ListSizes, Stopwatch, fill, is_checked_within, use_lists
from tests.support import api
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site
from tests.support.waiting import until

SIZES = ListSizes(destinations=1030, all_destinations=4030, credentials=1040, tokens=1030, replays=1030)


@pytest.mark.timeout(240)
async def test_lists_longer_than_one_reply_of_the_server_work_everywhere(site: Site) -> None:
    """The API starts, lists, publishes, fans out and shows the console, with a thousand of everything and more."""
    watch = Stopwatch()
    await fill(site, SIZES)
    async with api.running(site) as running:
        await use_lists(running, SIZES, watch)


async def test_a_new_credential_is_checked_whatever_another_tenant_stores(site: Site, receiver: Scripted) -> None:
    """Beside a thousand unchecked credentials of another tenant, it has a status at once, and deliveries arrive."""
    await fill(site, SIZES)
    async with site.consumer():
        assert await is_checked_within(site, 5) < 5
        await site.destination("orders", receiver.url)
        await site.deliver("orders")
        await until(lambda: receiver.seen)


async def test_the_subscriptions_of_a_tenant_are_bounded(site: Site) -> None:
    """The API refuses a destination beyond the bound, and accepts one without subscriptions, or with fewer."""
    row = msgspec.json.encode(
        Destination(url="https://example.com/in", credential="key", event_types=tuple(f"e{n}" for n in range(20_000)))
    )
    for number in range(MAX_SUBSCRIPTIONS // 20_000 + 1):  # concurrent writers may exceed the bound
        await site.jetstream.destinations.put(f"{TENANT}.d{number}", row)
    async with api.running(site) as running:
        client = await running.client("admin")
        path, fields = (
            f"/v1/tenants/{TENANT}/destinations/one-more",
            {"url": "http://127.0.0.1:9999", "credential": "key"},
        )
        refused = await client("PUT", path, fields | {"event_types": ["order.paid"]})
        assert (refused.status, "use groups" in refused.json["detail"]) == (422, True)
        assert (await client("PUT", path, fields)).status == 200
        fewer = path.replace("one-more", "d0"), fields | {"event_types": ["order.paid"]}
        assert (await client("PUT", *fewer)).status == 200
