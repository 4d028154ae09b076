"""Limits of tenants: a tenant that uses up its share gets a clear refusal, and the other tenants notice nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from consumers.replay.store import ReplayRow, ReplayStore
from messaging.quota import QuotaExceeded
from oneprotect.bootstrap.resources import open_jetstream
from schemas.configuration import Replay, ReplayFilter
from schemas.roles import ALL_TENANTS, Role, TokenSpec
from tests.component.api.routes import OURS, THEIRS
from tests.support.api import Client, Reply, running
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


async def test_refused_requests_count_as_well(site: Site) -> None:
    """A token that asks for another tenant's rows reaches its own limit, and not that of the other tenant."""
    async with running(site, tenant_rate_per_s="5", tenant_token_rate_per_s="100") as api:
        ours, theirs = await api.client("viewer"), await api.client("viewer", tenant=THEIRS)

        flood = await asyncio.gather(*(ours("GET", _THEIRS) for _ in range(60)))

        assert Counter(reply.status for reply in flood).keys() == {403, 429}
        assert (await theirs("GET", _THEIRS)).status == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/console/sign-in", "/healthz"])
async def test_an_address_sends_few_requests_without_a_token(site: Site, path: str) -> None:
    """Pages that need no token cost the process as much as others; who has a token is served meanwhile."""
    async with running(site) as api:
        ours, anonymous = await api.client("viewer"), await api.client()

        async def ask() -> int:
            return (await anonymous("GET", path)).status

        statuses = Counter[int]()
        for _ in range(20):
            statuses.update(await asyncio.gather(*(ask() for _ in range(100))))

        assert statuses.keys() == {200, 429}
        assert (await ours("GET", _OURS)).status == 200


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
        await until(lambda: len(arrived) == 2)
        mine = await ours("POST", f"/v1/tenants/{OURS}/deliveries", body)
        other = await theirs("POST", f"/v1/tenants/{THEIRS}/deliveries", body)

        assert (mine.status, other.status) == (429, 202)
        for task in slow:
            task.cancel()


async def _quota_problem(reply: Reply) -> str:
    assert (reply.status, reply.json["type"]) == (409, "urn:oneprotect:problem:quota-exceeded")
    return str(reply.json["detail"])


async def test_quotas_of_destinations_and_credentials_name_what_to_do(site: Site) -> None:
    """Replacing one is allowed, and another tenant has its own quota. A deleted one makes room."""
    async with running(site, tenant_max_destinations="2", tenant_max_credentials="3") as api:
        admin, other = await api.client("admin"), await api.client("admin", tenant=THEIRS)
        credential = {"secret_ref": "k8s://webhooks/signing-key/signing"}
        destination = {"url": "https://example.com/in", "credential": "key"}

        async def put(client: Client, tenant: str, path: str, body: object) -> Reply:
            return await client("PUT", f"/v1/tenants/{tenant}/{path}", body)

        kept = [await put(admin, OURS, f"destinations/d{n}", destination) for n in (1, 2, 1)]
        refused = await put(admin, OURS, "destinations/d3", destination)
        keys = [await put(admin, OURS, f"credentials/c{n}", credential) for n in (1, 2, 3)]
        theirs = await put(other, THEIRS, "credentials/c1", credential)
        await admin("DELETE", f"{_OURS}/d2")
        after = await put(admin, OURS, "destinations/d3", destination)

    assert [reply.status for reply in (*kept, theirs, after)] == [200] * 5
    assert [reply.status for reply in keys] == [200, 200, 409]
    assert "2 of 2 destinations" in await _quota_problem(refused)
    assert "ONEPROTECT_TENANT_MAX_CREDENTIALS" in await _quota_problem(keys[2])


async def test_ordered_destinations_have_a_quota(site: Site) -> None:
    """It counts when a destination becomes an ordered one, over the API and by command. Replacing one is allowed."""
    async with running(site, tenant_max_ordered="2") as api:
        admin = await api.client("admin")
        plain = {"url": "https://example.com/in", "credential": "key"}

        async def put(name: str, ordering: str) -> Reply:
            return await admin("PUT", f"{_OURS}/{name}", plain | {"ordering": ordering})

        allowed = [
            await put(*of) for of in (("d1", "fifo"), ("d2", "any"), ("d2", "fifo"), ("d1", "fifo"), ("d3", "any"))
        ]
        refused = [await put(*of) for of in (("d3", "fifo"), ("d4", "fifo"))]
        site.settings = site.load(tenant_max_ordered="2")
        async with open_jetstream(site.settings, name="test") as jetstream:
            with pytest.raises(QuotaExceeded, match="2 of 2 ordered destinations"):
                await jetstream.configuration.set_destination(OURS, "d4", plain | {"ordering": "fifo"}, by="test")
        made_room = await put("d1", "any")
        await until(lambda: _is_accepted(put))

    assert [reply.status for reply in (*allowed, made_room)] == [200] * 6
    for reply in refused:
        assert "ONEPROTECT_TENANT_MAX_ORDERED" in await _quota_problem(reply)


async def _is_accepted(put: Callable[[str, str], Awaitable[Reply]]) -> bool:
    return (await put("d3", "fifo")).status == 200


async def test_unfinished_replays_have_a_quota(site: Site) -> None:
    """A request with the filter of an unfinished replay resumes that one, also at the quota."""
    async with running(site, tenant_max_replays="1") as api:
        operator = await api.client("operator")
        one, two = (
            Replay(
                filter=ReplayFilter(destination=name),
                by="test",
                started_at=datetime.now(UTC),
                until_sequence=1,
            )
            for name in ("orders", "other")
        )
        await ReplayStore(site.jetstream.replays).save(OURS, ReplayRow("rpl-1", one))
        path = f"/v1/tenants/{OURS}/replays"

        resumed = await operator("POST", path, {"filter": {"destination": "orders"}})
        refused = await operator("POST", path, {"filter": {"destination": two.filter.destination}})

    assert resumed.status == 202
    assert "cancel some" in await _quota_problem(refused)


async def test_tokens_and_console_sessions_have_quotas(site: Site) -> None:
    """The sign-in page of a tenant with too many sessions says so, and the command that creates a token, too."""
    site.settings = site.load(tenant_max_tokens="3")
    async with open_jetstream(site.settings, name="test") as jetstream:
        spec = TokenSpec(tenant=OURS, roles=(Role.VIEWER,))
        tokens = [(await jetstream.tokens.create(spec, by="test"))[1].reveal() for _ in range(3)]
        with pytest.raises(QuotaExceeded, match="3 of 3 tokens"):
            await jetstream.tokens.create(spec, by="test")
    async with running(site, tenant_max_sessions="2") as api:
        client = api.with_token(None)
        form = {"content-type": "application/x-www-form-urlencoded", "origin": api.url}
        answers = [
            await client("POST", "/console/sign-in", data=urlencode({"token": tokens[0]}), headers=form)
            for _ in range(3)
        ]

    assert [answer.status for answer in answers] == [303, 303, 409]
    assert b"2 of 2 console sessions" in answers[2].body
