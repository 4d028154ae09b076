"""A tenant that burdens the API over HTTP: the other tenant's requests and deliveries are answered, and in time."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from schemas.roles import Role
from tests.component.console.test_console import Visitor
from tests.isolation import hostile_client
from tests.isolation.attack_process import attacking
from tests.isolation.hostile_client import Attack
from tests.isolation.installation import VICTIM, Installation
from tests.support.site import TENANT

pytestmark = [pytest.mark.serial, pytest.mark.asyncio(loop_scope="module")]

PATH: Final = f"/v1/tenants/{TENANT}"
HEAVY: Final = ("long lists", "searches")
"""Attacks whose single request is so expensive that a slow machine shows more of itself than of the API."""
PATTERN: Final = f"{'a' * 60}.{'b' * 50}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(installation: Installation) -> str:
    """Return a token of the hostile tenant with all roles, whose destinations have as many patterns as allowed."""
    destinations = {f"wide-{number}": f"{installation.hostile_url}/quick" for number in range(300)}
    patterns = [f"{PATTERN}.x{number}.*" for number in range(128)]
    await installation.add_destinations(TENANT, destinations, event_types=patterns)
    return await installation.api.token(*(role for role in Role), tenant=TENANT)


def _attacks(token: str) -> dict[str, Attack]:
    """Return attacks by name. Each takes the URL of the API later."""
    own = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    forged = "eyJhbGciOiJSUzI1NiIsImtpZCI6InsiYSJ9.eyJpc3MiOiJodHRwczovL2EifQ.{n}"
    return {
        "fan-outs that match nothing": Attack(
            url="", path=f"{PATH}/deliveries", headers=own, body=f'{{"event_type": "{PATTERN}.zz", "payload": {{n}}}}'
        ),
        "changes of configuration": Attack(
            url="",
            method="PUT",
            path=f"{PATH}/destinations/churn-{{n}}",
            headers=own,
            body='{"url": "https://example.com/{n}", "credential": "key"}',
        ),
        "changes of credentials": Attack(
            url="",
            method="PUT",
            path=f"{PATH}/credentials/churn-{{n}}",
            headers=own,
            body='{"purpose": "webhook-signing", "secret_ref": "k8s://webhooks/none-{n}/signing"}',
        ),
        "deep documents": Attack(
            url="",
            path=f"{PATH}/deliveries",
            headers=own,
            body='{"destination": "wide-1", "event_type": "a.b", "payload": ' + "[" * 100_000 + "]" * 100_000 + "}",
        ),
        "forged tokens": Attack(
            url="", path=f"{PATH}/deliveries", headers={"authorization": f"Bearer {forged}"}, connections=32
        ),
        "long lists": Attack(url="", method="GET", path=f"{PATH}/destinations?limit=100", headers=own),
        "searches": Attack(url="", method="GET", path=f"{PATH}/attempts?limit=100&destination=none", headers=own),
        "large bodies": Attack(
            url="",
            path=f"{PATH}/deliveries",
            headers=own,
            body='{"destination": "wide-1", "event_type": "a.b", "payload": "' + "x" * 250_000 + '"}',
            connections=120,
        ),
        "connections that drip": Attack(url="", path=f"{PATH}/deliveries", connections=300, drip=True),
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in HEAVY else []) for name in _attacks("")]
)
async def test_requests_of_one_tenant_delay_no_other(
    installation: Installation, token: str, p99_ms: float, figure: Callable[[str], None], name: str
) -> None:
    """The victim's requests are accepted and delivered while the hostile tenant sends as many as it can."""
    attack = _attacks(token)[name]
    async with attacking(hostile_client.__name__, msgspec.structs.replace(attack, url=installation.api.url)) as by:
        report = await installation.victim.run(installation.api, seconds=3)

    figure(f"{report}; attack: {by}")
    report.require(p99_ms)
    assert sum(by.values()) > 0, "the attack took place"


async def test_live_streams_of_one_tenant_delay_no_other(
    installation: Installation, p99_ms: float, figure: Callable[[str], None]
) -> None:
    """A tenant that follows its own flood with as many streams as it can neither takes the victim's nor delays it."""
    api = installation.api
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))

        async def follow(tenant: str, visitor: Visitor) -> aiohttp.ClientResponse:
            url = f"{api.url}/console/t/{tenant}/live"
            return await stack.enter_async_context(session.get(url, headers={"cookie": visitor.cookie}))

        statuses = Counter[int]()
        for _ in range(8):
            visitor = Visitor(await api.client(), api.url)
            await visitor.sign_in(await api.token(Role.VIEWER))
            statuses.update([(await follow(TENANT, visitor)).status for _ in range(10)])
        watching = Visitor(await api.client(), api.url)
        await watching.sign_in(await api.token(Role.VIEWER, tenant=VICTIM))
        own = await follow(VICTIM, watching)
        await installation.add_destinations(TENANT, {"followed": f"{installation.hostile_url}/quick"})
        await installation.fill([(TENANT, "followed")], 500)
        report = await installation.victim.run(api, seconds=3)
        shown = b""
        async with asyncio.timeout(10):
            while b"event: attempts" not in shown:
                shown += await own.content.readuntil(b"\n\n")

    figure(f"{report}; streams: {dict(statuses)}")
    assert statuses[429] > 0
    assert own.status == 200
    assert TENANT.encode() not in shown
    report.require(p99_ms)
