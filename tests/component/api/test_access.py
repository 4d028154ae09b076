"""Access: every route with every role, for a token of the tenant, of another tenant, and of all tenants."""

import asyncio

import msgspec
import pytest

from oneprotect.api.auth.token_format import parse_token_id
from schemas import streams
from schemas.roles import ALL_TENANTS, Role
from tests.component.api.routes import OURS, ROUTES, THEIRS, place, routes_of_app
from tests.support.api import Api, Client, Reply
from tests.support.waiting import until


def test_every_route_is_in_the_table() -> None:
    """A new route requires an entry with its roles."""
    assert routes_of_app() == set(ROUTES)


async def _ask(client: Client, method: str, path: str, tenant: str) -> Reply:
    access = ROUTES[method, path]
    return await client(method, place(path, access, tenant), access.body)


async def test_each_role_may_use_exactly_its_routes(api: Api) -> None:
    """A token of the tenant or of all tenants: 403 without one of the roles, anything but 401 and 403 with one."""
    await api.site.destination("orders", "https://example.com/in")
    wrong: list[str] = []
    for tenant in (OURS, ALL_TENANTS):
        for role in Role:
            client = await api.client(role, tenant=tenant)
            for (method, path), access in ROUTES.items():
                status = (await _ask(client, method, path, OURS)).status
                is_let_in = status not in (401, 403)
                if is_let_in != (access.roles is None or role in access.roles) or (is_let_in and status >= 500):
                    wrong.append(f"{tenant} {role} {method} {path}: {status}")

    assert wrong == []


async def test_a_token_of_another_tenant_is_forbidden(api: Api) -> None:
    """Every route responds 403 to every role, with one text for existing and missing resources, and changes nothing."""
    await api.site.destination("orders", "https://example.com/in")
    before = [await api.site.records(stream) for stream in _everything()]
    bodies: set[bytes] = set()
    for role in Role:
        client = await api.client(role, tenant=THEIRS)
        for (method, path), access in ROUTES.items():
            if access.roles is not None:
                for tenant in (OURS, "nobody", "Not A Tenant"):
                    reply = await _ask(client, method, path, tenant)
                    assert reply.status == 403, f"{role} {method} {path}"
                    bodies.add(reply.body)

    assert len(bodies) == 1
    after = [await api.site.records(stream) for stream in _everything()]
    assert [len(records) for records in after] == [len(records) for records in before[:-1]] + [
        len(before[-1]) + len(Role)  # the tokens that were made for this
    ]


def _everything() -> list[streams.StreamConfig]:
    return [streams.WORK, streams.OVERFLOW, streams.FAILED, streams.EVENTS]


async def test_without_a_token_only_the_open_routes_respond(api: Api) -> None:
    """Every other route responds 401 with a challenge."""
    client = api.with_token(None)
    for (method, path), access in ROUTES.items():
        reply = await _ask(client, method, path, OURS)
        if access.roles is None:
            assert reply.status == 200, path
        else:
            assert reply.status == 401, path
            assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Token x", "bearer\tx", "Bearer " + "x" * 9000]
)
async def test_malformed_authorization_headers_are_rejected(api: Api, header: str) -> None:
    """The API responds 401."""
    reply = await api.with_token(None)("GET", "/v1/tenants/acme/destinations", headers={"authorization": header})

    assert reply.status == 401


async def test_every_change_is_audited(api: Api) -> None:
    """An audit event names the change, the caller and the address."""
    admin = await api.client(Role.ADMIN)
    first = len(await api.site.records(streams.EVENTS))
    destination = "/v1/tenants/acme/destinations/orders"
    for method, path, body in (
        ("PUT", "/v1/tenants/acme/credentials/new", {"secret_ref": "k8s://webhooks/signing-key/signing"}),
        ("PUT", destination, {"url": "https://example.com/in", "credential": "new"}),
        ("POST", f"{destination}/disable", {"reason": "moves"}),
        ("POST", f"{destination}/enable", None),
        ("DELETE", destination, None),
        ("DELETE", "/v1/tenants/acme/credentials/new", None),
    ):
        assert (await admin(method, path, body)).status in (200, 204), path

    events = [msgspec.json.decode(record.data) for record in (await api.site.records(streams.EVENTS))[first:]]
    told = [event["data"] for event in events if event["type"] == "oneprotect.config.changed.v1"]
    assert [(one["kind"], one["action"]) for one in told] == [
        ("credential", "set"), ("destination", "set"), ("destination", "disable"), ("destination", "enable"),
        ("destination", "delete"), ("credential", "delete"),
    ]  # fmt: skip
    assert {one["by"] for one in told} == {f"token:{parse_token_id(admin.token or '')}"}
    assert {one["address"] for one in told} == {"127.0.0.1"}


async def test_the_last_use_of_a_token_is_stored_once_for_many_requests(api: Api) -> None:
    """The list of tokens shows the time."""
    viewer = await api.client(Role.VIEWER)
    await asyncio.gather(*(viewer("GET", "/v1/tenants/acme/destinations") for _ in range(20)))

    async def is_seen() -> bool:
        return any(view.last_used_at for view in await api.site.jetstream.tokens.list("acme"))

    await until(is_seen, 15)
