"""Tokens: create, use, list and revoke."""

from oneprotect.api.auth.token_format import PREFIX, parse_token_id
from schemas.roles import Role
from tests.support.api import Api, Client, running
from tests.support.site import TENANT
from tests.support.waiting import until

LIST = f"/v1/tenants/{TENANT}/destinations"


async def test_a_token_is_valid_until_it_is_revoked(api: Api) -> None:
    """A revoked token is refused within a second by every API process."""
    async with running(api.site) as another:
        client = await api.client(Role.VIEWER)
        elsewhere = another.with_token(client.token)
        assert (await client("GET", LIST)).status == 200
        assert (await elsewhere("GET", LIST)).status == 200

        await api.site.jetstream.tokens.delete(parse_token_id(client.token or "") or "", by="test")

        await until(lambda: _answers(client, 401), 5)
        await until(lambda: _answers(elsewhere, 401), 5)


async def _answers(client: Client, status: int) -> bool:
    return (await client("GET", LIST)).status == status


async def test_missing_mistyped_and_unknown_tokens_get_different_problems(api: Api) -> None:
    """Each is a 401 with a challenge, and never repeats the token."""
    good = await api.token(Role.VIEWER)
    mistyped = good[:-1] + ("a" if good[-1] != "a" else "b")
    for token, says in ((None, "is required"), (mistyped, "checksum"), ("something-else", "unknown format")):
        reply = await api.with_token(token)("GET", LIST)

        assert reply.status == 401
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert says in reply.json["detail"]
        assert (token or PREFIX).encode() not in reply.body


async def test_another_tenant_and_another_role_are_refused(api: Api) -> None:
    """The API responds 403 without details."""
    viewer, producer = await api.client(Role.VIEWER), await api.client(Role.PRODUCER)

    assert (await viewer("GET", LIST)).status == 200
    assert (await viewer("GET", "/v1/tenants/other/destinations")).status == 403
    assert (await producer("GET", LIST)).status == 403


async def test_too_many_failures_cause_a_429(api: Api) -> None:
    """A valid token from the address is still accepted."""
    good, bad = await api.client(Role.VIEWER), api.with_token("wrong")
    statuses = [(await bad("GET", LIST)).status for _ in range(25)]
    limited = await bad("GET", LIST)

    assert statuses[:15] == [401] * 15
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) >= 1
    assert (await good("GET", LIST)).status == 200
