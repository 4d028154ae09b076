"""The route cache: a route is kept exactly as long as it is valid."""

import time

import msgspec
import pytest

from consumers.delivery import route_cache
from consumers.delivery.route_cache import DeliveryRoute, RouteCache
from consumers.destinations.directory import ConfigurationDirectory
from messaging.kv_cache import MAX_AGE_S, MAX_ENTRIES
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

URL = "https://receiver.acme.com/in"


class Known:
    """A directory of the site's buckets, and the routes that it gives."""

    def __init__(self, site: Site, max_entries: int = MAX_ENTRIES) -> None:
        self.site = site
        self.directory = ConfigurationDirectory(
            site.jetstream.destinations, site.jetstream.credentials, max_entries=max_entries
        )
        self.routes = RouteCache(self.directory, NAMESPACE)

    async def read(self, *names: str) -> None:
        """Load the destinations and their credential into memory."""
        for name in names or ("orders",):
            await self.directory.destination(TENANT, name)
        await self.directory.credential(TENANT, "key")

    def find(self, name: str = "orders", *, after_s: float = 0) -> DeliveryRoute | None:
        """Return the route to a destination after the given time."""
        return self.routes.find(f"{TENANT}.{name}", time.monotonic() + after_s)


@pytest.fixture
async def known(site: Site) -> Known:
    """A route cache that follows changes and has `orders` in memory."""
    await site.destination("orders", URL)
    found = Known(site)
    await found.directory.start()
    await found.read()
    return found


async def test_a_route_is_kept_as_long_as_its_parts_are_fresh(known: Known) -> None:
    """The cache returns the route for a minute and then rebuilds it."""
    first, again, late = known.find(), known.find(after_s=MAX_AGE_S - 5), known.find(after_s=MAX_AGE_S + 1)

    assert first is not None
    assert again is first
    assert late is not first


@pytest.mark.parametrize("what", ["destination", "credential"])
async def test_a_change_of_destination_or_credential_ends_a_route(site: Site, known: Known, what: str) -> None:
    """An announced change counts at once."""
    before = known.find()
    assert before is not None
    if what == "destination":
        await site.destination("orders", URL + "/new", timeout_s=3)
    else:
        ref = {"secret_ref": f"k8s://{NAMESPACE}/other/signing"}
        await site.jetstream.configuration.set_credential(TENANT, "key", ref, by="test")
    await until(lambda: known.find() not in (None, before))

    after, is_destination = known.find(), what == "destination"
    assert after is not None
    assert (after.destination.timeout_s, str(after.secret_ref)) == (
        3 if is_destination else None,
        f"k8s://{NAMESPACE}/{'signing-key' if is_destination else 'other'}/signing",
    )


async def test_a_reconnect_ends_a_route(known: Known) -> None:
    """Announcements may have been missed, so there is no route before everything is read again."""
    before = known.find()
    await known.directory.forget()
    forgotten = known.find()
    await known.directory.destination(TENANT, "orders")
    half = known.find()
    await known.read()

    assert before is not None
    assert (forgotten, half) == (None, None)
    assert known.find() is not None


async def test_lanes_are_notified_of_forgotten_destinations(known: Known) -> None:
    """Limits, rates and ordering must be read again."""
    await known.site.destination("slow", URL, rate_per_s=2, ordering="fifo")
    await known.read("slow")
    asked: list[str] = []
    known.directory.on_destination(asked.append)
    rates, fifo = dict(known.directory.rates), set(known.directory.ordered_destinations)
    await known.directory.forget()

    slow = f"{TENANT}.slow"
    assert rates == {slow: 2}
    assert fifo == {slow}
    assert set(asked) == {f"{TENANT}.orders", slow}
    assert not known.directory.rates
    assert not known.directory.ordered_destinations
    assert known.directory.lane_limit(slow, 16) == 0


async def test_too_many_destinations_end_a_route(site: Site) -> None:
    """A bounded cache that forgets its entries ends their routes."""
    await site.destination("orders", URL)
    known = Known(site, max_entries=1)
    await known.directory.start()
    await known.read()
    before = known.find()
    await known.site.destination("more", URL)
    await known.read("more")
    after = [known.find(name) is not None for name in ("orders", "more")]

    assert before is not None
    assert after == [False, True]


async def test_the_number_of_routes_is_bounded(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound they are built again."""
    await known.site.destination("more", URL)
    await known.read("more")
    first = known.find()
    monkeypatch.setattr(route_cache, "MAX_ROUTES", 1)
    more = known.find("more")

    assert known.find("more") is more
    assert known.find() not in (None, first)


@pytest.mark.parametrize(
    ("fields", "is_direct", "has_ref"),
    [
        ({}, True, True),
        ({"enabled": False}, False, True),
        ({"ordering": "fifo"}, False, True),
        ({"credential": "bad"}, True, False),
        ({"credential": "none"}, True, False),
    ],
)
async def test_a_route_shows_what_prevents_a_delivery(
    site: Site, known: Known, fields: dict[str, object], *, is_direct: bool, has_ref: bool
) -> None:
    """A disabled or ordered destination is not direct, and an unusable credential has no ref."""
    document = {"url": URL, "credential": "key"} | fields
    bad = msgspec.json.encode({"secret_ref": "not a ref"})
    await site.jetstream.credentials.put(f"{TENANT}.bad", bad)
    await site.jetstream.destinations.put(f"{TENANT}.other", msgspec.json.encode(document))
    await known.read("other")
    await known.directory.credential(TENANT, "bad")
    await known.directory.credential(TENANT, "none")

    route = known.find("other")

    assert route is not None
    assert (route.is_direct, route.secret_ref is not None) == (is_direct, has_ref)


async def test_loading_a_route_reads_missing_parts(site: Site) -> None:
    """Loading reads the destination and the credential, and then the route is in memory."""
    await site.destination("orders", URL)
    unread = Known(site)
    before, missing = unread.find(), await unread.routes.load(f"{TENANT}.missing")
    loaded = await unread.routes.load(f"{TENANT}.orders")

    assert (before, missing) == (None, None)
    assert loaded is not None
    assert unread.find() is loaded


@pytest.mark.parametrize("name", ["unread", "", "orders.more"])
async def test_there_is_no_route_to_an_unknown_destination(known: Known, name: str) -> None:
    """Memory holds nothing about a destination that was never read."""
    assert known.find(name) is None
