"""HTTP API: no route shows a secret, ref or token in answers, logs or messages."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import aiohttp

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas.roles import ALL_TENANTS, Role
from tests.component.api.routes import ROUTES, Access, place
from tests.leak.support import search_targets
from tests.leak.support.scene import MARKER, Scene
from tests.leak.support.sinks import Sinks
from tests.support.api import Api, Client, Reply
from tests.support.leaks import Canary, Search
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def _deployed(site: Site) -> AsyncGenerator[tuple[Api, Process]]:
    """The API as its own process, at DEBUG."""
    port = free_port()
    process = await Process.start(site.environ_of("api") | {"ONEPROTECT_API_PORT": str(port)}, "api")
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            api = Api(site, f"http://127.0.0.1:{port}", session)

            async def is_up() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    return await api.is_ready()
                return False

            await until(is_up, 20)
            yield api, process
    finally:
        process.terminate()
        await process.wait()


def _hear(sinks: Sinks, sink: str, reply: Reply) -> None:
    sinks.hear(sink, f"{reply.status} {dict(reply.headers)!r}", reply.body)


async def _walk(sinks: Sinks, client: Client, who: str) -> list[int]:
    """Send one valid request to every route and return the statuses."""
    statuses: list[int] = []
    for (method, path), access in ROUTES.items():
        reply = await client(method, place(path, access, TENANT), access.body)
        _hear(sinks, f"answer to {who}: {method} {path}", reply)
        statuses.append(reply.status)
    return statuses


def _places_in(body: Any, canary: str) -> list[Any]:
    """The body with the canary in place of each value, one after the other, and as a field's name."""
    if not isinstance(body, dict):
        return [canary]
    fields = cast("dict[str, Any]", body)
    return [fields | {name: canary} for name in fields] + [fields | {canary: 1}, {"filter": {"ids": [canary]}}]


async def _paste(sinks: Sinks, client: Client, canary: str) -> None:
    """Put a secret wherever something can be put."""
    for (method, path), access in ROUTES.items():
        target = place(path, access, TENANT)
        pasted = place(path, Access(roles=None, id=canary.replace("/", "_")), TENANT)
        for where, query, body, headers in (
            (pasted, {}, access.body, {}),
            (target, {"cursor": canary}, access.body, {}),
            (target, {canary: "1"}, access.body, {}),
            (target, {}, access.body, {"If-Match": canary, "Idempotency-Key": canary, "traceparent": canary}),
            (target, {}, access.body, {"content-type": f"text/plain; {canary}"}),
            *((target, {}, one, {}) for one in _places_in(access.body, canary)),
        ):
            reply = await client(method, where, body, params=query, headers=headers)
            _hear(sinks, f"answer to pasting: {method} {path}", reply)


async def test_no_route_shows_a_secret_ref_or_token(tmp_path: Path, nats_server: EmbeddedNats, sinks: Sinks) -> None:
    """Operators, tenants and anonymous callers see no secret after deliveries with every outcome."""
    async with Site(tmp_path, nats_server) as site, Scene.opened(site) as scene:
        await search_targets.overhear(site, sinks)
        async with site.consumer(), _deployed(site) as (api, process):
            await scene.play()
            await until(api.is_ready, 20)
            operator = await api.client(*Role, tenant=ALL_TENANTS)
            tenant = await api.client(*Role)
            pasted = Canary.secret("pasted secret")
            statuses = await _walk(sinks, operator, "operators") + await _walk(sinks, tenant, "a tenant")
            await _walk(sinks, api.with_token(None), "nobody")
            await _walk(sinks, api.with_token(pasted.reveal()), "a secret as a token")
            for name in ("echo", "key", "orders"):
                for kind in ("destinations", "credentials"):
                    _hear(sinks, f"answer about {kind}", await tenant("GET", f"/v1/tenants/{TENANT}/{kind}/{name}"))
            await _paste(sinks, operator, pasted.reveal())
        sinks.hear("output of the API", bytes(process.output))
        sinks.hear_all(search_targets.store(site))

    tokens = [Canary("token", (client.token or "")[27:-6]) for client in (operator, tenant)]  # the part that is secret
    # A destination is shown as it was written, its description and the reason for disabling it included.
    about_destinations = (
        "GET /v1/tenants/{tenant}/destinations",
        "PUT /v1/tenants/{tenant}/destinations",
        "POST /v1/tenants/{tenant}/destinations",
    )
    shown = [
        f"answer to {who}: {route}" for who in ("operators", "a tenant", "pasting") for route in about_destinations
    ]
    assert 500 not in statuses
    assert 503 not in statuses
    assert sinks.carry(MARKER)
    assert sinks.holds("output of the API", "api.answered")
    assert sinks.findings(scene.secrets) == []
    assert sinks.findings(Search(*tokens)) == []
    assert sinks.findings(Search(scene.ref), but=search_targets.CONFIGURATION) == []
    assert (
        sinks.findings(
            Search(scene.query, scene.header), but=(*search_targets.CONFIGURATION, "answer about destinations", *shown)
        )
        == []
    )
    assert (
        sinks.findings(
            Search(pasted), but=(*search_targets.CONFIGURATION, *shown, "NATS oneprotect", "file ONEPROTECT")
        )
        == []
    )
