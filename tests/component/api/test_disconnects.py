"""A client that disconnects: nothing is read for it any more."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import Response

from oneprotect.api.web.problems import problem_of, problem_response
from oneprotect.api.web.request_body import BodyLimits, read_bytes
from oneprotect.api.web.routing import NormalizingRouter, routes_of, while_connected
from oneprotect.api.web.server import serve
from telemetry.bounded_http import ConnectionLimits

LIMITS = BodyLimits(body_bytes=100_000)


@contextlib.asynccontextmanager
async def _serving(read: Callable[[], Awaitable[Response]]) -> AsyncGenerator[tuple[str, int]]:
    """Serve `read` as a long read after the body, and return host and port."""

    async def handle(http: Request) -> Response:
        if http.method == "POST":
            await read_bytes(http, LIMITS)
        return await while_connected(http, _as_coroutine(read))

    routes = routes_of(
        [(method, "/", handle) for method in ("GET", "POST")], lambda _, e: problem_response(problem_of(e))
    )
    stop = asyncio.Event()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    limits = ConnectionLimits(total=8, per_client=8)
    app = NormalizingRouter(routes, redirect_slashes=False)
    serving = asyncio.create_task(
        serve(app, host="127.0.0.1", port=0, connections=limits, stop=stop, on_listening=listening.set_result)
    )
    url = urlsplit(await listening)
    try:
        yield str(url.hostname), int(url.port or 0)
    finally:
        stop.set()
        await serving


async def _as_coroutine(read: Callable[[], Awaitable[Response]]) -> Response:
    return await read()


_REQUESTS = pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n" + b"x" * 90_000,
    ],
    ids=["list", "dry run"],
)


@_REQUESTS
async def test_a_long_read_ends_when_its_client_disconnects(request_bytes: bytes) -> None:
    """Also after a body."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def read() -> Response:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Response()

    async with _serving(read) as address, asyncio.timeout(10):
        _, writer = await asyncio.open_connection(*address)
        writer.write(request_bytes)
        await began.wait()
        assert not ended.is_set()
        writer.close()
        await ended.wait()


@_REQUESTS
async def test_a_long_read_is_answered_while_its_client_waits(request_bytes: bytes) -> None:
    """The connection then serves the next request."""

    async def read() -> Response:
        await asyncio.sleep(0)
        return Response(b"rows")

    async with _serving(read) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(request_bytes)
            assert (await reader.readuntil(b"rows")).startswith(b"HTTP/1.1 200 ")
        writer.close()
