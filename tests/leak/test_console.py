"""Console pages with deliveries of every outcome: bodies, headers, cookies, events and logs."""

import asyncio
import re
from urllib.parse import urlencode

import aiohttp

from oneprotect.console.app import LIVE, PAGES
from schemas.roles import Role
from tests.leak.support.listening import Listener
from tests.leak.support.scene import MARKER, Scene
from tests.leak.support.sinks import Sinks
from tests.support.api import Api, Client, Reply, running
from tests.support.leaks import Canary, Search
from tests.support.site import TENANT, Site
from tests.support.waiting import until

DESTINATIONS = ("orders", "echo", "late", "gone", "closed", "spoiled", "missing")


class _Visitor:
    """Opens every page and records all responses."""

    def __init__(self, api: Api, client: Client, sinks: Sinks) -> None:
        self._api = api
        self._client = client
        self._sinks = sinks
        self._cookie = ""

    async def sign_in(self, token: str) -> None:
        answer = await self._send("POST", "/console/sign-in", token=token)
        self._cookie = answer.headers["set-cookie"].partition(";")[0]

    async def open_all(self, deliveries: list[str]) -> None:
        page = await self._send("GET", "/console/integrations")
        found = re.search(rb'name="form_token" value="(\w+)"', page.body)
        assert found
        for one in PAGES:
            if one.path not in ("/console/sign-out", "/console/sign-in", "/console/tenant"):
                for path in _named(one.path, deliveries):
                    await self._send(one.method, path, form_token=found[1].decode(), dry_run="1")
        for name in DESTINATIONS:
            await self._send("GET", f"/console/t/{TENANT}/destinations/{name}")
        await self._send("GET", f"/console/t/{TENANT}/replays/new?dry_run=1")

    async def _send(self, method: str, path: str, **fields: str) -> Reply:
        headers = {"cookie": self._cookie, "origin": self._api.url, "content-type": "application/x-www-form-urlencoded"}
        answer = await self._client(method, path, data=urlencode(fields) if method == "POST" else None, headers=headers)
        assert answer.status < 500 or path.endswith("/check"), (path, answer)
        self._sinks.hear(f"page {method} {path.partition('?')[0]}", str(answer.headers), answer.body)
        return answer

    async def follow(self) -> asyncio.Task[None]:
        """Record live events from the moment this returns."""
        began = asyncio.Event()

        async def listen() -> None:
            url = self._api.url + LIVE.replace("{tenant}", TENANT)
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers={"cookie": self._cookie}) as answer,
            ):
                async for line in answer.content:
                    self._sinks.hear("live events", line)
                    began.set()

        task = asyncio.create_task(listen())
        await asyncio.wait_for(began.wait(), 5)
        return task


def _named(path: str, deliveries: list[str]) -> list[str]:
    path = path.replace("{tenant}", TENANT)
    if "{delivery}" in path:
        return [path.replace("{delivery}", one) for one in deliveries]
    return [path.replace("{id}", "key" if "credentials" in path else "orders")]


async def test_no_page_gives_anything_away(site: Site, sinks: Sinks, listener: Listener) -> None:
    """To operators and to viewers, in pages, headers, cookies, live events and logs."""
    async with Scene.opened(site) as scene, running(site) as api:
        tokens = [await api.token(role) for role in (Role.OPERATOR, Role.VIEWER)]
        visitors = [_Visitor(api, await api.client(), sinks) for _ in tokens]
        for visitor, token in zip(visitors, tokens, strict=True):
            await visitor.sign_in(token)
        following = await visitors[0].follow()
        async with site.consumer():
            deliveries = [await site.deliver(name, delivery=f"{MARKER}-{name}") for name in DESTINATIONS]

            async def are_recorded() -> bool:
                return {result.delivery for result in await site.results()} >= set(deliveries)

            await until(are_recorded, 20)
            for visitor in visitors:
                await visitor.open_all(deliveries)
        await until(lambda: sinks.holds("live events", MARKER))
        following.cancel()
        await asyncio.wait({following})
        secrets, configuration = scene.secrets, scene.configuration
    listener.finish()

    assert sinks.holds("live events", MARKER)
    assert sinks.holds(f"page GET /console/t/{TENANT}/attempts", MARKER)
    assert sinks.findings(secrets) == []
    assert sinks.findings(configuration) == []
    # Behind its prefix and its id, which the audit trail names.
    assert sinks.findings(Search(*(Canary("token", token[27:]) for token in tokens))) == []
