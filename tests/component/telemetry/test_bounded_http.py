"""Connections of the HTTP servers: every one ends, and a new client is served however many others are held open."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from oneprotect.api.web import server
from oneprotect.api.web.server import serve
from telemetry import bounded_http
from telemetry.bounded_http import ConnectionLimits

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HELD = b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
LARGE = 20 * 1024 * 1024


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse without reading the body, respond with a large body, or respond at once."""
    match scope["path"]:
        case "/refused":
            response = Response(b"no", 401)
        case "/large":
            response = Response(b"x" * LARGE)
        case _:
            response = Response(await Request(scope, receive).body())
    await response(scope, receive, send)


@contextlib.asynccontextmanager
async def _served(total: int = 100, per_client: int = 100, proxies: tuple[str, ...] = ()) -> AsyncGenerator[int]:
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    limits = ConnectionLimits(total=total, per_client=per_client, proxies=proxies)
    serving = asyncio.create_task(
        serve(_app, host="127.0.0.1", port=0, connections=limits, stop=stop, on_listening=url.set_result)
    )
    try:
        async with asyncio.timeout(30):
            yield int((await url).rpartition(":")[2])
    finally:
        stop.set()
        await serving


@contextlib.asynccontextmanager
async def _connected(port: int, count: int) -> AsyncGenerator[list[Streams]]:
    """Open connections one after the other, each from the same address."""
    opened = [await asyncio.open_connection("127.0.0.1", port, limit=LARGE) for _ in range(count)]
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def _ask(streams: Streams, request: bytes = GET) -> bytes:
    """Send a request and return the status line; empty if the connection is closed."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head.split(b"\r\n")[0]


async def test_a_refused_request_that_drips_its_body_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of the body used to keep the connection open for ever."""
    monkeypatch.setattr(bounded_http, "LEFTOVER_TIMEOUT_S", 0.5)
    async with _served() as port, _connected(port, 1) as [(reader, writer)]:
        assert b" 401 " in await _ask((reader, writer), HELD)
        dripped = 0
        while not reader.at_eof():
            writer.write(b"x")
            dripped += 1
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(reader.read(1), 0.1)

    assert dripped < 100


async def test_a_refused_request_whose_body_arrives_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends the whole body uses the connection again, and an idle connection ends in time."""
    monkeypatch.setattr(bounded_http, "KEEP_ALIVE_S", 0.5)
    async with _served() as port, _connected(port, 1) as [streams]:
        assert b" 401 " in await _ask(streams, HELD)
        streams[1].write(b"x" * 1000)
        assert b" 200 " in await _ask(streams)
        assert b" 401 " in await _ask(streams, HELD)
        streams[1].write(b"x" * 1000)
        assert await streams[0].read() == b""


async def test_a_full_server_replaces_the_connection_that_waits_longest() -> None:
    """Held connections do not keep a new client out; the replaced one learns why."""
    async with _served(total=20) as port, _connected(port, 20) as held:
        assert b" 200 " in await _ask(held[0])
        async with _connected(port, 1) as [fresh]:
            assert b" 200 " in await _ask(fresh)
        replaced = await held[1][0].read()

        assert b" 503 " in replaced
        assert b"too-many-connections" in replaced
        assert b" 200 " in await _ask(held[0])


async def test_a_client_at_its_limit_replaces_its_own_connections() -> None:
    """Behind a trusted proxy are many clients: it has no such limit."""
    async with _served(per_client=5) as port, _connected(port, 8) as opened:
        assert b" 200 " in await _ask(opened[7])
        assert [b" 503 " in await opened[number][0].read() for number in range(3)] == [True] * 3
    async with _served(per_client=5, proxies=("127.0.0.0/8",)) as port, _connected(port, 8) as opened:
        assert all([b" 200 " in await _ask(one) for one in opened])


async def test_a_client_that_does_not_read_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that nobody reads does not hold memory and a connection for ever."""
    monkeypatch.setattr(bounded_http, "SWEEP_INTERVAL_S", 0.1)
    monkeypatch.setattr(bounded_http, "STALL_TIMEOUT_S", 0.5)
    with socket.socket() as silent:
        async with _served() as port:
            loop = asyncio.get_running_loop()
            silent.setblocking(False)
            await loop.sock_connect(silent, ("127.0.0.1", port))
            await loop.sock_sendall(silent, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.sleep(2)
            read = 0
            with contextlib.suppress(ConnectionError):
                while chunk := await loop.sock_recv(silent, 1024 * 1024):
                    read += len(chunk)

    assert read < LARGE


async def test_a_client_that_does_not_read_is_reset_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection does not outlive the server: an event loop with a client of its own would never close."""
    monkeypatch.setattr(server, "DRAIN_TIMEOUT_S", 1)
    with socket.socket() as silent:
        async with _served() as port:
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", port))
            await loop.sock_sendall(silent, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.sleep(0.5)
        read = 0
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                while chunk := await loop.sock_recv(silent, 1024 * 1024):
                    read += len(chunk)

    assert read < LARGE


async def test_endless_pipelined_requests_are_cut_off() -> None:
    """Requests that wait for an earlier response use memory: a few are answered, many close the connection."""
    async with _served() as port, _connected(port, 2) as [few, many]:
        assert b" 200 " in await _ask(few, GET * 3)
        assert b" 200 " in await _ask(few, b"")
        many[1].write(GET * 5000)
        answers = b""
        with contextlib.suppress(ConnectionError):
            answers = await many[0].read()

    assert answers.count(b" 200 ") < 5000
