"""The API process before NATS starts, while NATS is down, behind a proxy, and on SIGTERM."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import aiohttp
import msgspec

from oneprotect.dev.nats_server import free_port
from schemas import streams
from schemas.roles import Role
from tests.support.api import Api, running
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

DELIVERIES = f"/v1/tenants/{TENANT}/deliveries"
BODY = {"event_type": "a.b", "destination": "orders", "payload": 1}


@contextlib.asynccontextmanager
async def _process(site: Site) -> AsyncGenerator[tuple[Process, Api]]:
    port = free_port()
    process = await Process.start(site.environ_of("api") | {"ONEPROTECT_API_PORT": str(port)}, "api")
    try:
        async with aiohttp.ClientSession() as session:
            yield process, Api(site, f"http://127.0.0.1:{port}", session)
    finally:
        process.kill()
        await process.wait()


async def _lives(api: Api) -> bool:
    try:
        return (await api.with_token(None)("GET", "/healthz")).status == 200
    except aiohttp.ClientError:
        return False


async def test_the_api_is_alive_before_nats_starts_and_ready_afterwards(site: Site) -> None:
    """Meanwhile everything else is a 503, as a problem document; no restart is needed."""
    await site.server.kill()
    async with _process(site) as (process, api):
        await until(lambda: _lives(api), 20)
        client = api.with_token(None)
        ready, other = await client("GET", "/readyz"), await client("POST", DELIVERIES, BODY)
        await site.server.restart()
        await until(api.is_ready, 20)
        process.terminate()
        assert await process.wait() == 0

    assert ready.status == 503
    assert (other.status, other.headers["content-type"]) == (503, "application/problem+json")
    assert "retry-after" in other.headers


async def test_only_a_long_nats_outage_ends_readiness(api: Api) -> None:
    """A short outage causes 503 only for routes that need NATS; a long one also fails `/readyz`."""
    await api.site.server.kill()
    await api.site.server.restart()
    assert (await api.with_token(None)("GET", "/readyz")).status == 200

    await api.site.server.kill()

    async def is_unready() -> bool:
        return not await api.is_ready()

    await until(is_unready, 20)
    assert await _lives(api)
    await api.site.server.restart()
    await until(api.is_ready, 20)


async def test_sigterm_finishes_requests_in_progress(site: Site, receiver: Scripted) -> None:
    """A request whose body is still arriving is stored and answered before the process exits with 0."""
    await site.destination("orders", receiver.url)
    async with _process(site) as (process, api):
        await until(lambda: _lives(api), 20)
        await until(api.is_ready, 20)
        producer = await api.client(Role.PRODUCER)
        begun, going_on = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncGenerator[bytes]:
            document = msgspec.json.encode(BODY)
            yield document[:10]
            begun.set()
            await going_on.wait()
            yield document[10:]

        asking = asyncio.create_task(producer("POST", DELIVERIES, data=body()))
        await begun.wait()
        process.terminate()
        await until(lambda: _refuses(api), 10)
        going_on.set()
        reply = await asking
        assert await asyncio.wait_for(process.wait(), 20) == 0

    assert reply.status == 202
    assert len(await site.records(streams.WORK)) == 1


async def _refuses(api: Api) -> bool:
    """Return true if the port refuses connections."""
    try:
        async with aiohttp.ClientSession() as fresh, fresh.get(f"{api.url}/healthz"):
            return False
    except aiohttp.ClientConnectionError:
        return True


async def test_a_port_in_use_is_reported_by_the_name_of_its_setting(api: Api) -> None:
    """The command exits with 2, and names the variable and a remedy."""
    port = api.url.rpartition(":")[2]
    process = await Process.start(api.site.environ_of("api") | {"ONEPROTECT_API_PORT": port}, "api")

    assert await asyncio.wait_for(process.wait(), 30) == 2
    assert process.says("ONEPROTECT_API_PORT")


async def test_only_trusted_proxies_set_the_client_address(site: Site) -> None:
    """The audit trail has the forwarded address from a trusted proxy, and otherwise the peer's address."""
    headers = {"X-Forwarded-For": "203.0.113.7"}
    for proxies, address in (("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.7")):
        async with running(site, api_trusted_proxies=proxies) as api:
            admin = await api.client(Role.ADMIN)
            spec = {"url": "https://example.com/in", "credential": "key"}
            assert (
                await admin("PUT", f"/v1/tenants/{TENANT}/destinations/orders", spec, headers=headers)
            ).status == 200
        events = [msgspec.json.decode(record.data) for record in await site.records(streams.EVENTS)]
        assert events[-1]["data"]["address"] == address
