"""HTTP API for a test: a real server on loopback, and clients with tokens."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import msgspec

from oneprotect.bootstrap.api import run_api
from schemas.roles import Role, TokenSpec
from tests.support.site import TENANT, Site
from tests.support.waiting import until


class Reply(msgspec.Struct, frozen=True):
    """An HTTP response of the API."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class Client:
    """A client with one token or without a token; paths begin with `/`."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str | None) -> None:
        self.url = url
        self.token = token
        self._session = session

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Any = None,
    ) -> Reply:
        """Send a request with `body` as JSON or with the bytes `data`."""
        sent = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        if body is not None:
            data = msgspec.json.encode(body)
        if data is not None:
            sent["content-type"] = "application/json"
        async with self._session.request(
            method,
            self.url + path,
            data=data,
            params=params,
            headers={**sent, **{name.lower(): value for name, value in (headers or {}).items()}},
            allow_redirects=False,
        ) as answer:
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read())


class Api:
    """A running API; `client` creates the tokens that it needs."""

    def __init__(self, site: Site, url: str, session: aiohttp.ClientSession) -> None:
        self.site = site
        self.url = url
        self._session = session

    async def token(self, *roles: Role | str, tenant: str = TENANT) -> str:
        """Create a token with these roles."""
        spec = TokenSpec(tenant=tenant, roles=tuple(Role(role) for role in roles))
        _, issued = await self.site.jetstream.tokens.create(spec, by="test")
        return issued.reveal()

    async def client(self, *roles: Role | str, tenant: str = TENANT) -> Client:
        """Return a client whose token has these roles, or without roles a client without a token."""
        token = await self.token(*roles, tenant=tenant) if roles else None
        return Client(self.url, self._session, token)

    async def is_ready(self) -> bool:
        """Return True when the readiness probe succeeds."""
        return (await self.with_token(None)("GET", "/readyz")).status == 200

    def with_token(self, token: str | None) -> Client:
        """Return a client with this token."""
        return Client(self.url, self._session, token)


@contextlib.asynccontextmanager
async def running(site: Site, *, ready: bool = True, **settings: str) -> AsyncGenerator[Api]:
    """Run the API of a site in this process on a free port; `settings` are those of `Site`."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(
        run_api(
            site.settings_of("api", site.load(api_port="0", **settings)), stop=stop, on_listening=listening.set_result
        )
    )
    serving.add_done_callback(lambda task: None if listening.done() else listening.set_exception(_why(task)))
    try:
        url = await listening
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            api = Api(site, url, session)
            if ready:
                await until(api.is_ready, 10)
            yield api
    finally:
        stop.set()
        await serving


def _why(task: asyncio.Task[None]) -> BaseException:
    return (None if task.cancelled() else task.exception()) or AssertionError("it never listened")


async def request_named(producer: Client, key: str, body: dict[str, Any]) -> Reply:
    """Request a delivery under a named id, again while NATS is unavailable or the request is in progress."""

    async def request() -> Reply | None:
        reply = await producer("POST", f"/v1/tenants/{TENANT}/deliveries", body, headers={"Idempotency-Key": key})
        return None if reply.status == 503 else reply

    reply = await until(request)
    assert reply is not None
    return reply


def duplicates_in(reply: Reply) -> dict[str, bool]:
    """Return by destination whether its delivery was known already."""
    assert reply.status == 202, reply.body
    return {one["destination"]: one["duplicate"] for one in reply.json["deliveries"]}
