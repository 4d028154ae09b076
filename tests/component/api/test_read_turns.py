"""Lists and searches: each is bounded by bytes, they take turns, and an answer that nobody reads costs its tenant."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import urlsplit

import pytest

from oneprotect.api.web.rate_limits import MAX_READS_PER_TENANT, MAX_WAITING_READS
from tests.component.api.routes import OURS, THEIRS
from tests.support.api import Api, Client, running
from tests.support.site import Site
from tests.support.waiting import until

_OURS = f"/v1/tenants/{OURS}/destinations"
_THEIRS = f"/v1/tenants/{THEIRS}/destinations"
_NAMES = [f"large-{number:02}" for number in range(60)]


@pytest.fixture
async def api(site: Site) -> AsyncGenerator[Api]:
    """An API with destinations of 8 KB, whose tenants may have two requests in progress beyond those that wait."""
    types = [f"{'a' * 110}.{number}" for number in range(64)]
    for name in _NAMES:
        fields = {"url": "http://127.0.0.1:1024/", "credential": "key", "event_types": types}
        await site.jetstream.configuration.set_destination(OURS, name, fields, by="test")
    async with running(site, tenant_max_concurrent=str(MAX_READS_PER_TENANT + MAX_WAITING_READS + 8)) as api:
        yield api


async def _pages(client: Client) -> AsyncGenerator[Sequence[str]]:
    cursor: str | None = None
    while True:
        reply = await client("GET", _OURS, params={"limit": "500", **({"cursor": cursor} if cursor else {})})
        assert len(reply.body) < 300_000
        yield [item["id"] for item in reply.json["items"]]
        cursor = reply.json["next"]
        if cursor is None:
            return


async def test_a_page_of_large_destinations_ends_early_and_the_next_one_continues(api: Api) -> None:
    """Every destination is on one page, in order, and each page is small."""
    pages = [page async for page in _pages(await api.client("viewer"))]
    assert [name for page in pages for name in page] == _NAMES
    assert len(pages) == 2


async def test_a_flood_of_lists_is_refused_for_its_tenant_only(api: Api) -> None:
    """The refusal says when to retry. Another tenant's list, and a single destination, are read meanwhile."""
    ours, theirs = await api.client("viewer"), await api.client("viewer", tenant=THEIRS)

    async def read(client: Client, path: str) -> int:
        reply = await client("GET", path)
        assert reply.status == 200 or int(reply.headers["retry-after"]) >= 1
        return reply.status

    flood = [asyncio.create_task(read(ours, f"{_OURS}?limit=500")) for _ in range(17)]
    others = [asyncio.create_task(read(theirs, _THEIRS)), asyncio.create_task(read(ours, f"{_OURS}/{_NAMES[0]}"))]
    statuses = await asyncio.gather(*flood)

    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= MAX_READS_PER_TENANT + MAX_WAITING_READS
    assert await asyncio.gather(*others) == [200, 200]
    assert (await ours("GET", f"{_OURS}?limit=500")).status == 200


@pytest.mark.usefixtures("api")
async def test_answers_that_nobody_reads_take_the_slots_of_their_tenant_only(site: Site) -> None:
    """While clients read nothing, the tenant's requests are refused. When they are gone, it is served again."""
    async with running(site, tenant_max_concurrent="2") as small:
        ours, theirs = await small.client("viewer"), await small.client("viewer", tenant=THEIRS)
        deaf = [await _ask_and_read_nothing(ours) for _ in range(2)]

        async def is_refused_for_a_while() -> bool:
            statuses: list[int] = []
            for _ in range(10):
                statuses.append((await ours("GET", f"{_OURS}/{_NAMES[0]}")).status)
                await asyncio.sleep(0.05)
            return set(statuses) == {429}

        await until(is_refused_for_a_while, 20)
        assert (await theirs("GET", _THEIRS)).status == 200
        for one in deaf:
            one.close()

        async def is_served() -> bool:
            return (await ours("GET", f"{_OURS}?limit=500")).status == 200

        await until(is_served, 10)


async def _ask_and_read_nothing(client: Client) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    one.setblocking(False)
    url = urlsplit(client.url)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, (url.hostname, url.port))
    head = f"GET {_OURS}?limit=500 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {client.token}\r\n\r\n"
    await loop.sock_sendall(one, head.encode() * 15)  # many times what the buffers hold, as some may be refused
    return one
