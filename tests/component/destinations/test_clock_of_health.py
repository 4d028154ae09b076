"""A consumer whose own clock is wrong pauses a destination by the server's clock."""

from datetime import UTC, datetime, timedelta

from consumers.destinations.health import DestinationHealth
from consumers.http_client.response import WebhookResponse
from oneprotect.bootstrap.consumer import DEFAULT_HEALTH_POLICY
from schemas.codes import Code
from tests.support.site import TENANT, Site


async def test_a_clock_that_is_an_hour_ahead_pauses_nobody_for_an_hour(site: Site) -> None:
    """The pause after a 429 ends ten seconds later for every consumer, by the clock that they share."""
    server_time = datetime.now(UTC)

    async def disable(tenant: str, destination: str, *, url: str, reason: str) -> None:
        """Disable nothing."""

    health = DestinationHealth(
        bucket=site.jetstream.health,
        publisher=site.jetstream.publisher,
        disable=disable,
        policy=DEFAULT_HEALTH_POLICY,
        clock=lambda: server_time,
    )
    reply = WebhookResponse(code=Code.HTTP_429, http_status=429)
    health.record_reply(f"{TENANT}.orders", "https://example.com", reply, server_time + timedelta(hours=1))
    await health.flush()

    row = await site.jetstream.health.get(f"{TENANT}.orders")
    assert row is not None
    assert row.value is not None
    assert str(server_time + timedelta(seconds=10))[:19].replace(" ", "T") in row.value.decode()
