"""Destinations and credentials over HTTP: validation, tests, and optimistic concurrency."""

from typing import Any

import pytest

from schemas.codes import Code, Outcome
from schemas.roles import ALL_TENANTS, Role
from tests.support.api import Api, Client, running
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

DESTINATIONS = f"/v1/tenants/{TENANT}/destinations"
CREDENTIALS = f"/v1/tenants/{TENANT}/credentials"
SPEC: dict[str, Any] = {"url": "https://example.com/in", "credential": "key"}


async def test_a_destination_from_creation_to_deletion(api: Api) -> None:
    """PUT, GET, list, disable with a reason, enable, DELETE."""
    admin = await api.client(Role.ADMIN)
    one = f"{DESTINATIONS}/orders"

    put = await admin("PUT", one, SPEC | {"event_types": ["invoice.*"], "rate_per_s": 5})
    got = await admin("GET", one)
    listed = await admin("GET", DESTINATIONS)
    disabled = await admin("POST", f"{one}/disable", {"reason": "moves house"})
    enabled = await admin("POST", f"{one}/enable")
    deleted = await admin("DELETE", one)

    assert (put.status, got.json) == (200, put.json)
    assert put.json["url"] == "https://example.com/in"
    assert listed.json == {"items": [put.json], "next": None}
    assert (disabled.json["enabled"], disabled.json["disabled_reason"]) == (False, "moves house")
    assert disabled.json["disabled_at"] is not None
    assert enabled.json["enabled"] is True
    assert (deleted.status, deleted.body) == (204, b"")
    assert (await admin("GET", one)).status == 404


async def test_two_admins_never_overwrite_each_other(api: Api) -> None:
    """The second of two changes with one `If-Match` gets a 412, and the first one stays."""
    admin = await api.client(Role.ADMIN)
    one = f"{DESTINATIONS}/orders"
    seen = (await admin("PUT", one, SPEC)).headers["etag"]

    first = await admin("PUT", one, SPEC | {"description": "first"}, headers={"If-Match": seen})
    second = await admin("PUT", one, SPEC | {"description": "second"}, headers={"If-Match": seen})
    gone = await admin("DELETE", one, headers={"If-Match": seen})
    off = await admin("POST", f"{one}/disable", headers={"If-Match": seen})
    now = await admin("GET", one)

    assert [reply.status for reply in (first, second, gone, off)] == [200, 412, 412, 412]
    assert (now.json["description"], now.headers["etag"]) == ("first", first.headers["etag"])
    assert (await admin("DELETE", one, headers={"If-Match": f'"1", {now.headers["etag"]}'})).status == 204


async def test_create_only(api: Api) -> None:
    """`If-None-Match: *` changes no existing object; `If-Match: *` creates none."""
    admin = await api.client(Role.ADMIN)
    for place, body in ((f"{DESTINATIONS}/orders", SPEC), (f"{CREDENTIALS}/new", {"secret_ref": "k8s://a/b/c"})):
        statuses = [
            (await admin("PUT", place, body, headers=headers)).status
            for headers in (
                {"If-Match": "*"}, {"If-None-Match": "*"}, {"If-None-Match": "*"}, {"If-Match": "*"},
                {"If-Match": 'W/"1"'}, {"If-Match": "nonsense"}, {"If-None-Match": '"1"'},
            )
        ]  # fmt: skip

        assert statuses == [412, 200, 412, 200, 412, 422, 422]


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"url": "https://10.0.0.1/"}, "url", "blocked range"),
        ({"url": "https://user:canary@example.com/"}, "url", "user name or password"),
        ({"url": 7}, "url", "expected `str`"),
        ({"headers": {"webhook-id": "x"}}, "headers", "webhook-*"),
        ({"headers": {"a": "b\r\nc"}}, None, "printable"),
        ({"event_types": ["a b"]}, "event_types[0]", "an event type"),
        ({"timeout_s": 31}, "timeout_s", "<= 30"),
        ({"max_in_flight": "8"}, "max_in_flight", "expected `int"),
        ({"credential": "nothing"}, "credential", "no credential"),
        ({"surprise": 1}, None, "unknown field"),
    ],
)
async def test_a_broken_rule_is_a_422(api: Api, change: dict[str, Any], field: str | None, says: str) -> None:
    """The problem names the field and the rule, and never the value."""
    admin = await api.client(Role.ADMIN)

    reply = await admin("PUT", f"{DESTINATIONS}/orders", SPEC | change)

    assert reply.status == 422
    assert field is None or reply.json["errors"][0]["field"] == field
    assert says in reply.json["errors"][0]["rule"]
    assert b"canary" not in reply.body


async def test_lists_come_in_pages(api: Api) -> None:
    """Pages of any size show each item once, in order."""
    admin = await api.client(Role.ADMIN)
    for number in range(5):
        await api.site.destination(f"d{number}", "https://example.com/in")

    items: list[str] = []
    cursor = ""
    while True:
        page = await admin("GET", f"{DESTINATIONS}?limit=2{cursor}")
        items += [item["id"] for item in page.json["items"]]
        if page.json["next"] is None:
            break
        cursor = f"&cursor={page.json['next']}"

    assert items == [f"d{number}" for number in range(5)]


async def test_no_response_contains_a_secret_ref(api: Api) -> None:
    """A credential is shown without its ref, and a credential in use cannot be deleted."""
    admin = await api.client(Role.ADMIN)
    one = f"{CREDENTIALS}/new"

    put = await admin(
        "PUT", one, {"purpose": "webhook-signing", "secret_ref": f"k8s://{NAMESPACE}/hidden-name/signing"}
    )
    replies = [put, await admin("GET", one), await admin("GET", CREDENTIALS)]
    await admin("PUT", f"{DESTINATIONS}/orders", SPEC | {"credential": "new"})
    in_use = await admin("DELETE", one)

    assert {reply.status for reply in replies} == {200}
    assert all(b"hidden-name" not in reply.body and b"k8s" not in reply.body for reply in replies)
    assert put.json["status"] == "unchecked"
    assert (in_use.status, "orders" in in_use.json["detail"]) == (409, True)


async def test_checking_a_credential(api: Api) -> None:
    """A consumer checks it; only operators see the cause of a failure; without a consumer the check is a 503."""
    admin, operator = await api.client(Role.ADMIN), await api.client(Role.OPERATOR, tenant=ALL_TENANTS)
    await admin("PUT", f"{CREDENTIALS}/gone", {"secret_ref": f"k8s://{NAMESPACE}/nowhere/signing"})
    nobody = await admin("POST", f"{CREDENTIALS}/key/check")

    async with api.site.consumer():

        async def is_configured() -> bool:
            return (await admin("POST", f"{CREDENTIALS}/key/check")).status == 200

        await until(is_configured, 10)
        good = await admin("POST", f"{CREDENTIALS}/key/check")
        told = [await one("POST", f"{CREDENTIALS}/gone/check") for one in (admin, operator)]
        shown = [await one("GET", f"{CREDENTIALS}/gone") for one in (admin, operator)]

    assert nobody.status == 503
    assert good.json["status"] == "configured"
    assert [reply.json["status"] for reply in told] == ["unavailable", "missing"]
    assert [reply.json["status"] for reply in shown] == ["unavailable", "missing"]


async def _test(client: Client, name: str) -> Any:
    reply = await client("POST", f"{DESTINATIONS}/{name}/test")
    return reply.status, reply.json["result"]


async def test_a_test_delivery_is_signed_and_attempted_once(api: Api, receiver: Scripted) -> None:
    """The response has its result; a failed test is neither retried nor retained."""
    admin = await api.client(Role.ADMIN)
    async with Scripted([500]) as failing, api.site.consumer():
        await api.site.destination("orders", receiver.url)
        await api.site.destination("failing", failing.url, retry_schedule_s=[0.1])
        good = await _test(admin, "orders")
        bad = await _test(admin, "failing")
        await until(api.site.is_settled)

    assert (good[0], good[1]["outcome"], good[1]["signed_with"]) == (200, Outcome.DELIVERED, ["current"])
    assert (bad[0], bad[1]["outcome"], bad[1]["code"]) == (200, Outcome.FAILED, Code.HTTP_5XX)
    assert b"oneprotect.ping" in receiver.seen[0].body
    assert receiver.seen[0].headers["webhook-signature"].startswith("v1,")
    assert len(failing.seen) == 1
    assert await api.site.jetstream.replayer.list(TENANT) == {}


async def test_a_test_delivery_without_a_consumer_is_pending(site: Site, receiver: Scripted) -> None:
    """The response is a 202 without a result."""
    await site.destination("orders", receiver.url)
    async with running(site, request_timeout_s="0.5") as api:
        admin = await api.client(Role.ADMIN)
        assert await _test(admin, "orders") == (202, None)
