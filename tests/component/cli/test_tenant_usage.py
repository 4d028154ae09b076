"""`oneprotect tenant usage`: what a tenant has of each quota."""

from messaging.publication import Publication
from schemas import subjects
from tests.component.conftest import RunHere
from tests.support.site import TENANT, Site


async def test_the_use_of_each_quota_is_shown(oneprotect: RunHere, site: Site) -> None:
    """Numbers and bytes are those of this tenant, with the limits of the settings."""
    await site.destination("orders", "https://example.com/in")
    subject = subjects.failed(TENANT, "orders", "dlv_1")
    await site.jetstream.publisher.publish(Publication(subject, b"x" * 1000, {"a": "b"}))

    shown = await oneprotect("tenant", "usage", TENANT)
    rows = (await oneprotect("tenant", "usage", TENANT, "--json", tenant_max_tokens="7")).json
    other = (await oneprotect("tenant", "usage", "other", "--json")).json

    used = {row["quota"]: (row["used"], row["limit"]) for row in rows}
    assert used["destinations"] == (1, 20_000)
    assert used["tokens"] == (0, 7)
    assert 1000 < used["bytes of failed deliveries"][0] < 1200
    assert {row["used"] for row in other} == {0}
    assert (shown.code, "destinations" in shown.out) == (0, True)
