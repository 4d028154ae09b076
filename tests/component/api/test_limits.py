"""Limits of tenants: a tenant that uses up its share gets a clear refusal, and the other tenants notice nothing."""

import asyncio
from collections.abc import AsyncGenerator

from schemas.roles import ALL_TENANTS
from tests.component.api.routes import OURS, THEIRS
from tests.support.api import running
from tests.support.site import Site
from tests.support.waiting import until

_OURS = f"/v1/tenants/{OURS}/destinations"
_THEIRS = f"/v1/tenants/{THEIRS}/destinations"


async def test_a_flood_of_requests_is_refused_for_its_tenant_only(site: Site) -> None:
    """The refusal says when to retry. Another tenant and an operator are served meanwhile."""
    async with running(site, tenant_rate_per_s="5", tenant_token_rate_per_s="100") as api:
        ours, theirs = await api.client("viewer"), await api.client("viewer", tenant=THEIRS)
        operator = await api.client("viewer", tenant=ALL_TENANTS)

        flood = await asyncio.gather(*(ours("GET", _OURS) for _ in range(60)))
        others = [await theirs("GET", _THEIRS), await operator("GET", _OURS)]

        refused = [reply for reply in flood if reply.status == 429]
        assert len(refused) >= 40
        assert {reply.json["type"] for reply in refused} == {"urn:oneprotect:problem:too-many-requests"}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert [reply.status for reply in others] == [200, 200]


async def test_a_flood_of_one_token_leaves_the_tenants_other_tokens_alone(site: Site) -> None:
    """The limit of a token is below the limit of its tenant."""
    async with running(site, tenant_rate_per_s="100", tenant_token_rate_per_s="5") as api:
        flooding, other = await api.client("viewer"), await api.client("viewer")

        flood = await asyncio.gather(*(flooding("GET", _OURS) for _ in range(60)))

        assert sum(reply.status == 429 for reply in flood) >= 40
        assert (await other("GET", _OURS)).status == 200


async def test_slow_requests_take_the_slots_of_their_tenant_only(site: Site) -> None:
    """Bodies that never arrive hold a slot until the time limit for bodies."""
    async with running(site, tenant_max_concurrent="2", api_body_timeout_s="2") as api:
        ours, theirs = await api.client("producer"), await api.client("producer", tenant=THEIRS)
        body = {"event_type": "invoice.paid", "payload": 1}

        arrived: list[bool] = []

        async def drip() -> int:
            async def silent() -> AsyncGenerator[bytes]:
                yield b"{"
                arrived.append(True)
                await asyncio.sleep(60)

            return (await ours("POST", f"/v1/tenants/{OURS}/deliveries", data=silent())).status

        slow = [asyncio.create_task(drip()) for _ in range(2)]
        await until(lambda: len(arrived) == 2, 5)
        mine = await ours("POST", f"/v1/tenants/{OURS}/deliveries", body)
        other = await theirs("POST", f"/v1/tenants/{THEIRS}/deliveries", body)

        assert (mine.status, other.status) == (429, 202)
        for task in slow:
            task.cancel()
