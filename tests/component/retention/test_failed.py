"""`oneprotect failed`: failed deliveries and their attempts."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from schemas.codes import Code, Outcome
from tests.support.commandline import Ran
from tests.support.retained_deliveries import keep, record
from tests.support.site import TENANT, Site
from tests.support.waiting import until

pytestmark = pytest.mark.retry

RunHere = Callable[..., Awaitable[Ran]]
LIST = ("failed", "list", "--tenant", TENANT)


async def _ids(oneprotect: RunHere, *options: str) -> list[str]:
    ran = await oneprotect(*LIST, "--json", *options)
    assert ran.code == 0
    return [row["id"] for row in ran.json["failed"]]


async def test_kept_deliveries_are_listed_newest_first(site: Site, oneprotect: RunHere) -> None:
    """The conditions of replays filter the list, and another tenant sees nothing."""
    (first,) = await keep(site)
    between = datetime.now(UTC).isoformat()
    await until(lambda: datetime.now(UTC).isoformat() > between)
    (second,) = await keep(site, code=Code.HTTP_410)
    (third,) = await keep(site, destination="invoices", code=Code.DESTINATION_DISABLED, outcome=Outcome.SKIPPED)
    await keep(site, tenant="globex")
    since = between.replace("+00:00", "Z")

    shown = await oneprotect(*LIST)
    nothing = await oneprotect("failed", "list", "--tenant", "nobody")

    assert await _ids(oneprotect) == [third, second, first]
    assert await _ids(oneprotect, "--destination", "orders") == [second, first]
    assert await _ids(oneprotect, "--code", "http.410", "--code", "destination.disabled") == [third, second]
    assert await _ids(oneprotect, "--since", since) == [third, second]
    assert await _ids(oneprotect, "--until", since) == [first]
    assert await _ids(oneprotect, "--id", first) == [first]
    assert await _ids(oneprotect, "--event-type", "other") == []
    assert [line.split()[3] for line in shown.out.splitlines()[1:]] == [third, second, first]
    assert "skipped" in shown.out
    assert nothing.out == "No kept delivery matches. Check the names of the tenant and the destination.\n"


async def test_failed_deliveries_are_listed_in_pages(site: Site, oneprotect: RunHere) -> None:
    """`--before` continues after the previous page, and no delivery appears twice."""
    deliveries = await keep(site, 2100)
    found: list[str] = []
    pages = 0
    before: tuple[str, ...] = ()

    while True:
        page = (await oneprotect(*LIST, "--limit", "1000", "--json", *before)).json
        found += [row["id"] for row in page["failed"]]
        pages += 1
        if page["next"] is None:
            break
        before = ("--before", str(page["next"]))

    assert found == deliveries[::-1]
    assert pages == 3


async def test_open_deliveries_are_those_that_a_replay_would_select(site: Site, oneprotect: RunHere) -> None:
    """The page omits attempted and waiting deliveries, and has others in their place."""
    deliveries = await keep(site, 6)
    await record(site, deliveries[5], attempt=9, outcome=Outcome.DELIVERED, code=Code.HTTP_2XX)
    await oneprotect("replay", "--tenant", TENANT, "--id", deliveries[3])

    still_open = await _ids(oneprotect, "--open")
    page = await _ids(oneprotect, "--open", "--limit", "2")

    assert still_open == [deliveries[4], deliveries[2], deliveries[1], deliveries[0]]
    assert page == [deliveries[4], deliveries[2]]


async def test_a_failed_delivery_is_shown_with_its_attempts(site: Site, oneprotect: RunHere) -> None:
    """The command shows the request, reason and attempts for each destination; the payload only on request."""
    payload = b'{"card": "4111 1111"}'
    await record(site, "order-7", attempt=1, outcome=Outcome.RETRY_SCHEDULED, http_status=503)
    await record(site, "order-7", attempt=2, http_status=500)
    await record(site, "order-8", attempt=3)
    await keep(site, delivery="order-7", attempt=2, payload=payload)
    await keep(site, delivery="order-7", attempt=2, destination="invoices", code=Code.NET_DNS)
    to = ("failed", "show", "order-7", "--tenant", TENANT)

    shown = await oneprotect(*to)
    invoices, orders = (await oneprotect(*to, "--json")).json
    (whole,) = (await oneprotect(*to, "--destination", "orders", "--payload", "--json")).json
    printed = await oneprotect(*to, "--destination", "orders", "--payload")

    assert (shown.code, shown.err) == (0, "")
    assert "failed with http.5xx (HTTP 500) at attempt 2" in shown.out
    assert f"{len(payload)} bytes of application/json" in shown.out
    assert "no: a replay sends it" in shown.out
    assert "#1 retry_scheduled" in shown.out
    assert "order-8" not in shown.out
    assert (invoices["destination"], invoices["code"], invoices["attempts"]) == ("invoices", "net.dns", [])
    assert [(one["attempt"], one["http_status"]) for one in orders["attempts"]] == [(1, 503), (2, 500)]
    assert (orders["superseded"], orders["event_type"], orders["source"]) == (False, "invoice.paid", "/tests")
    assert whole["payload"] == payload.decode()
    assert "4111" in printed.out
    assert "4111" not in shown.out + json.dumps([invoices, orders])


async def test_an_unknown_delivery_is_an_error(oneprotect: RunHere) -> None:
    """An unknown id exits with 1 and an invalid one with 2, without an echo."""
    unknown = await oneprotect("failed", "show", "hidden", "--tenant", TENANT)
    bad = await oneprotect("failed", "show", "hidden.id", "--tenant", TENANT)
    bad_tenant = await oneprotect("failed", "list", "--tenant", "Hidden")

    assert (unknown.code, bad.code, bad_tenant.code) == (1, 2, 2)
    assert unknown.err.startswith("error: no delivery with this id is retained; ")
    assert bad.err.startswith("error: ID: expected 1 to 64 of A-Z")
    assert "idden" not in unknown.err + bad.err + bad_tenant.err


@pytest.mark.parametrize("command", ["list", "show"])
async def test_help_has_an_example(oneprotect: RunHere, command: str) -> None:
    """Each command has `--json` and a complete example."""
    ran = await oneprotect("failed", command, "--help")

    assert ran.code == 0
    assert "--json" in ran.out
    assert f"oneprotect failed {command}" in ran.out.partition("\n  Example")[2]
