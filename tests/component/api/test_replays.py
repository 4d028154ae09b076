"""Attempts and replays over HTTP."""

import asyncio
import functools
from typing import Any

import msgspec

from oneprotect.api.auth.token_format import parse_token_id
from schemas import streams
from schemas.roles import ALL_TENANTS, Role
from tests.support.api import Api, Client, running
from tests.support.receiver import Scripted
from tests.support.retained_deliveries import keep, pack
from tests.support.site import TENANT, Site
from tests.support.waiting import until

ATTEMPTS = f"/v1/tenants/{TENANT}/attempts"
REPLAYS = f"/v1/tenants/{TENANT}/replays"


async def _fail(site: Site, receiver: Scripted, count: int) -> list[str]:
    """So many deliveries that were given up on."""
    receiver.script = [410, 200]
    await site.destination("orders", receiver.url)
    async with site.consumer():
        deliveries = [await site.deliver("orders") for _ in range(count)]
        await until(site.is_settled, 20)
    await site.jetstream.configuration.enable_destination(TENANT, "orders", by="test")
    return deliveries


async def test_attempts_are_filtered_and_listed_newest_first(api: Api, receiver: Scripted) -> None:
    """Attempts are filtered by destination, outcome, code and time, and listed in pages."""
    receiver.script = [500, 200]
    await api.site.destination("orders", receiver.url)
    await api.site.destination("others", receiver.url)
    viewer = await api.client(Role.VIEWER)
    async with api.site.consumer():
        for name in ("orders", "others", "nowhere"):
            await api.site.deliver(name, delivery=f"to-{name}")
        await until(api.site.is_settled, 20)

    async def got(**params: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        more: dict[str, str] = {}
        while True:
            reply = await viewer("GET", ATTEMPTS, params=params | more)
            assert reply.status == 200, reply.json
            found += [(one["destination"], one["code"]) for one in reply.json["items"]]
            if reply.json["next"] is None:
                return found
            more = {"cursor": reply.json["next"]}

    everything = await got(limit="2")
    assert sorted(everything) == [
        ("nowhere", "destination.not_found"), ("orders", "http.2xx"), ("orders", "http.5xx"), ("others", "http.2xx"),
        ("others", "http.5xx"),
    ]  # fmt: skip
    assert everything == await got()
    assert [code for _, code in await got(destination="orders")] == ["http.2xx", "http.5xx"]
    assert {name for name, _ in await got(code="http.5xx")} == {"orders", "others"}
    assert await got(outcome="failed") == [("nowhere", "destination.not_found")]
    assert await got(until="2020-01-01T00:00:00Z") == []
    assert len(await got(since="2020-01-01T00:00:00Z", delivery="to-orders")) == 2


async def test_a_tenant_does_not_see_why_a_secret_is_unavailable(api: Api, receiver: Scripted) -> None:
    """An operator sees the code; a tenant sees `secret.unavailable` and cannot filter by the code."""
    await api.site.jetstream.configuration.set_credential(
        TENANT, "gone", {"secret_ref": "k8s://webhooks/nowhere/signing"}, by="test"
    )
    await api.site.destination("orders", receiver.url, credential="gone")
    viewer, operator = await api.client(Role.VIEWER), await api.client(Role.OPERATOR, tenant=ALL_TENANTS)
    async with api.site.consumer():
        delivery = await api.site.deliver("orders")
        await until(lambda: _has_attempt(viewer), 10)

    async def codes(client: Client, **params: str) -> set[str]:
        return {one["code"] for one in (await client("GET", ATTEMPTS, params=params)).json["items"]}

    assert await codes(viewer) == {"secret.unavailable"}
    assert await codes(operator) == {"secret.not_found"}
    for asked in ("secret.not_found", "secret.denied", "secret.unavailable"):
        assert await codes(viewer, code=asked) == {"secret.unavailable"}
    assert await codes(operator, code="secret.denied") == set()
    shown = await viewer("GET", f"/v1/tenants/{TENANT}/deliveries/{delivery}")
    assert b"not_found" not in shown.body


async def _has_attempt(client: Client) -> bool:
    return bool((await client("GET", ATTEMPTS)).json["items"])


async def test_a_dry_run_counts_and_a_replay_delivers(api: Api, receiver: Scripted) -> None:
    """A dry run returns a count and a sample; a background replay ends with an event."""
    deliveries = await _fail(api.site, receiver, 5)
    operator = await api.client(Role.OPERATOR)
    body: dict[str, Any] = {"filter": {"destination": "orders", "codes": ["http.410"]}}

    dry = await operator("POST", REPLAYS, body | {"dry_run": True})
    begun = await operator("POST", REPLAYS, body)
    async with api.site.consumer():
        await until(lambda: _state_is(operator, begun.headers["location"], "finished"), 20)
        await until(api.site.is_settled, 20)
    done = await operator("GET", begun.headers["location"])
    after = await operator("POST", REPLAYS, body | {"dry_run": True})

    assert (dry.status, dry.json["count"], len(dry.json["sample"])) == (200, 5, 5)
    assert dry.json["by"] == [{"destination": "orders", "code": "http.410", "count": 5}]
    assert (begun.status, begun.json["state"]) == (202, "running")
    assert begun.json["total"] is None, "the replay itself counts"
    assert [done.json[name] for name in ("total", "replayed", "skipped", "active")] == [5, 5, 0, False]
    assert sorted(receiver.ids()) == sorted(deliveries * 2)
    assert (after.json["count"], after.json["superseded"]) == (0, 5)
    listed = (await operator("GET", REPLAYS)).json["items"]
    assert [one["id"] for one in listed] == [done.json["id"]]


async def _state_is(client: Client, place: str, state: str) -> bool:
    return bool((await client("GET", place)).json["state"] == state)


async def test_a_replay_is_cancelled(api: Api, receiver: Scripted) -> None:
    """A slow one stops within moments, and stays cancelled."""
    await _fail(api.site, receiver, 5)
    operator = await api.client(Role.OPERATOR)
    begun = await operator("POST", REPLAYS, {"rate_per_s": 0.5})
    place = begun.headers["location"]
    same = await operator("POST", REPLAYS, {"rate_per_s": 0.5})

    cancelled = await operator("DELETE", place)
    again = await operator("DELETE", place)

    assert same.json["id"] == begun.json["id"]
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert cancelled.json["replayed"] < 5
    told = [msgspec.json.decode(record.data) for record in await api.site.records(streams.EVENTS)]
    ended = [event["data"] for event in told if event["type"] == "oneprotect.replay.finished.v1"]
    assert [(one["state"], one["by"], one["address"]) for one in ended] == [
        ("cancelled", f"token:{parse_token_id(operator.token or '')}", "127.0.0.1")
    ]
    assert again.status == 409


async def test_another_process_finishes_a_replay(site: Site, receiver: Scripted) -> None:
    """Another process finds the replay of an ended process and finishes it without repeated requests."""
    deliveries = await _fail(site, receiver, 6)
    async with running(site) as first:
        operator = await first.client(Role.OPERATOR)
        begun = await operator("POST", REPLAYS, {"rate_per_s": 4})
        await until(lambda: _replayed(operator, begun.headers["location"]), 10)
    row = (await site.jetstream.replayer.list(TENANT))[begun.json["id"]]

    async with running(site) as second, site.consumer():
        operator = await second.client(Role.OPERATOR)
        await until(lambda: _state_is(operator, begun.headers["location"], "finished"), 30)
        await until(site.is_settled, 20)

    assert 0 < row.replayed < 6
    assert sorted(receiver.ids()) == sorted(deliveries * 2)


async def test_an_api_process_runs_the_replays_of_a_tenant_one_after_the_other(site: Site, receiver: Scripted) -> None:
    """Those that wait are not in memory. Each is found by its filter meanwhile, and all end without a new request."""
    await _fail(site, receiver, 6)
    async with running(site) as api:
        operator = await api.client(Role.OPERATOR)

        async def begin(code: str) -> str:
            reply = await operator("POST", REPLAYS, {"filter": {"codes": ["http.410", code]}, "rate_per_s": 4})
            return str(reply.headers["location"])

        codes = ("http.4xx", "http.5xx", "http.429")
        begun = await asyncio.gather(*(begin(code) for code in codes))
        same = [await begin(code) for code in codes]
        for place in begun:
            await until(functools.partial(_state_is, operator, place, "finished"), 20)

    assert same == begun
    assert len(set(begun)) == 3


async def _replayed(client: Client, place: str) -> bool:
    return bool((await client("GET", place)).json["replayed"])


async def test_delivered_outcomes_are_replayed_separately(api: Api) -> None:
    """`outcomes: [delivered]` replays only the archive, and a mix with other outcomes is refused."""
    await pack(api.site, 3)
    await keep(api.site, 2)
    admin = await api.client(Role.OPERATOR)

    async def counted(*outcomes: str) -> Any:
        reply = await admin("POST", REPLAYS, {"filter": {"outcomes": list(outcomes)}, "dry_run": True})
        return reply.json["count"] if reply.status == 200 else (reply.status, str(reply.json))

    assert (await counted(), await counted("failed"), await counted("skipped")) == (2, 2, 0)
    assert await counted("delivered") == 3
    status, problem = await counted("delivered", "failed")
    assert status in (400, 422)
    assert "without other outcomes" in problem
