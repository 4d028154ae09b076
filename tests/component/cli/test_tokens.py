"""`oneprotect token`: tokens are created, shown once, listed and revoked."""

from oneprotect.api.auth.token_format import parse_token_id
from schemas import streams
from tests.component.conftest import RunHere
from tests.support.site import Site


async def test_a_token_is_shown_once_and_kept_as_a_hash(oneprotect: RunHere, site: Site) -> None:
    """The token is only on stdout. The list and NATS contain only its id."""
    made = await oneprotect("token", "create", "--tenant", "acme", "--role", "producer", "--name", "billing")
    text = made.out.strip()
    listed = await oneprotect("token", "list", "--json")

    (view,) = listed.json
    assert made.code == 0
    assert view["id"] == parse_token_id(text)
    assert (view["tenant"], view["roles"], view["name"]) == ("acme", ["producer"], "billing")
    assert view["last_used_at"] is None
    secret = text[27:-6]
    stored = await site.jetstream.token_bucket.list()
    assert secret not in made.err + listed.out
    assert all(secret.encode() not in (entry.value or b"") for entry in stored)
    assert b"config.changed" in (await site.records(streams.EVENTS))[-1].data


async def test_tokens_for_all_tenants_are_listed_under_a_star(oneprotect: RunHere) -> None:
    """The tenant `*` means all tenants."""
    await oneprotect("token", "create", "--tenant", "*", "--role", "operator", "--role", "viewer")
    await oneprotect("token", "create", "--tenant", "acme", "--role", "viewer")

    everybody = (await oneprotect("token", "list", "--json")).json
    of_all = (await oneprotect("token", "list", "--tenant", "*", "--json")).json
    of_one = (await oneprotect("token", "list", "--tenant", "acme", "--json")).json

    assert sorted(view["tenant"] for view in everybody) == ["*", "acme"]
    assert [view["roles"] for view in of_all] == [["operator", "viewer"]]
    assert [view["tenant"] for view in of_one] == ["acme"]


async def test_a_token_is_revoked_by_its_id(oneprotect: RunHere) -> None:
    """A second deletion fails, and names the command that lists tokens."""
    made = await oneprotect("token", "create", "--tenant", "acme", "--role", "viewer", "--json")

    deleted = await oneprotect("token", "delete", made.json["id"], "--json")
    again = await oneprotect("token", "delete", made.json["id"])

    assert (deleted.code, deleted.json["deleted"]) == (0, True)
    assert (again.code, "oneprotect token list" in again.err) == (1, True)
    assert (await oneprotect("token", "list", "--json")).json == []


async def test_an_invalid_tenant_or_role_is_refused(oneprotect: RunHere) -> None:
    """The exit code is 2, and the error does not repeat the input."""
    for arguments in (
        ("--tenant", "Not A Tenant", "--role", "viewer"),
        ("--tenant", "acme", "--role", "canary"),
        ("--tenant", "acme"),
    ):
        ran = await oneprotect("token", "create", *arguments)

        assert ran.code == 2
        assert "canary" not in ran.err
        assert "Not A Tenant" not in ran.err
