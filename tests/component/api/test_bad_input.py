"""Bad input on every route, from the application's table: a problem document, and no side effect."""

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
import pytest

from oneprotect.api.operations.operation import ApiOperation
from schemas import streams
from schemas.roles import ALL_TENANTS, Role
from telemetry import bounded_http
from tests.component.api.routes import OURS, ROUTES, operation_of, place
from tests.support.api import Api, Client, Reply, running
from tests.support.site import Site

CANARY = "canary-in-the-input"
METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "TRACE", "PROPFIND")

BODIES: dict[str, tuple[bytes, dict[str, str], set[int]]] = {
    "no JSON": (b"{" + CANARY.encode(), {}, {400}),
    "empty": (b"", {}, {400, 200}),
    "bad UTF-8": (b'{"event_type": "' + CANARY.encode() + b'\xff\xfe"}', {}, {400}),
    "wrong type": (b'["' + CANARY.encode() + b'"]', {}, {422}),
    "unknown field": (msgspec.json.encode({CANARY: CANARY}), {}, {422}),
    "too deep": (b"[" * 100_000, {}, {400, 422}),
    "another type": (b"a=1", {"content-type": f"application/x-www-form-urlencoded; {CANARY}"}, {415}),
    "compressed": (b"\x1f\x8b", {"content-encoding": "gzip"}, {415}),
    "huge": (b" " * 2_000_000, {}, {413}),
}


async def _everyone(api: Api) -> Client:
    return await api.client(*Role, tenant=ALL_TENANTS)


def _is_problem(reply: Reply) -> bool:
    return (
        reply.headers["content-type"] == "application/problem+json"
        and reply.json["status"] == reply.status
        and reply.json["type"].startswith("urn:oneprotect:problem:")
        and CANARY.encode() not in reply.body
        and b"Traceback" not in reply.body
    )


def _with_bodies() -> list[tuple[str, str, ApiOperation]]:
    operations = [(method, path, operation_of(method, path)) for method, path in ROUTES]
    return [one for one in operations if one[2].body]


@pytest.mark.parametrize("bad", BODIES)
async def test_bad_bodies(api: Api, bad: str) -> None:
    """Each route with a body rejects each malformed body, and stores nothing."""
    client = await _everyone(api)
    events = len(await api.site.records(streams.EVENTS))
    data, headers, statuses = BODIES[bad]
    for method, path, operation in _with_bodies():
        target = place(path, ROUTES[method, path], OURS)
        try:
            reply = await client(method, target, data=io.BytesIO(data), headers=headers)
        except OSError:  # the server hung up on what was still being sent, which the client may not read to its end
            assert bad == "huge"
            continue
        if reply.status == 200:
            assert bad == "empty"
            assert not operation.body_required
            continue
        if reply.status == 404:  # there is no such thing, which may be found out first
            assert not operation.body_required
            continue
        assert reply.status in statuses, f"{method} {path}"
        assert _is_problem(reply), reply
    assert len(await api.site.records(streams.EVENTS)) == events
    assert await api.site.records(streams.WORK) == []


async def test_wrong_methods(api: Api) -> None:
    """The API responds 405, and `Allow` lists the methods."""
    client = await _everyone(api)
    for path in {path for _, path in ROUTES}:
        allowed = {method for method, other in ROUTES if other == path}
        access = next(access for (_, other), access in ROUTES.items() if other == path)
        for method in set(METHODS) - allowed:
            reply = await client(method, place(path, access, OURS))

            assert reply.status == 405, f"{method} {path}"
            assert _is_problem(reply)
            assert set(reply.headers["allow"].split(", ")) == allowed | {"OPTIONS"}


async def test_bad_names_in_paths(api: Api) -> None:
    """A malformed name is a 422 that names the parameter; an unknown path is a 404."""
    client = await _everyone(api)
    for (method, path), access in ROUTES.items():
        if "{id}" not in path:
            continue
        for bad in (f"{CANARY}!", "a" * 300, "%ff%fe", "a%00b", "..%2e", "a%0ab"):
            reply = await client(method, path.replace("{tenant}", OURS).replace("{id}", bad), access.body)
            assert reply.status in (422, 404), f"{method} {path} {bad}"
            assert _is_problem(reply)
    for path in ("/", "/v1", "/v1/tenants", "/v1/tenants/acme", f"/{CANARY}", "/v1/tenants/acme/destinations/a/b/c"):
        reply = await client("GET", path)
        assert reply.status == 404
        assert _is_problem(reply)


@pytest.mark.parametrize(
    "query",
    [f"limit={CANARY}", "limit=0", "limit=501", f"cursor={CANARY}", "cursor=", f"{CANARY}=1", "limit=1&limit=2"],
)
async def test_bad_queries(api: Api, query: str) -> None:
    """Every list checks its parameters."""
    client = await _everyone(api)
    for (method, path), access in ROUTES.items():
        if operation_of(method, path).query:
            reply = await client(method, f"{place(path, access, OURS)}?{query}")
            assert reply.status == 422, path
            assert _is_problem(reply)


async def test_a_slow_body_ends_by_its_deadline(site: Site) -> None:
    """Each route with a body responds 408 to a slow one."""
    async with running(site, api_body_timeout_s="1") as api:
        client = await _everyone(api)

        async def drip() -> AsyncIterator[bytes]:
            yield b"{"
            while True:
                await asyncio.sleep(0.2)
                yield b" "

        async def ask(method: str, path: str) -> Reply:
            return await client(method, place(path, ROUTES[method, path], OURS), data=drip())

        replies = await asyncio.gather(*(ask(method, path) for method, path, _ in _with_bodies()))

    assert {reply.status for reply in replies} == {408}
    assert all(map(_is_problem, replies))


@contextlib.asynccontextmanager
async def _raw(api: Api) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_a_slow_head_closes_the_connection(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not finish its headers in time gets a 408."""
    monkeypatch.setattr(bounded_http, "HEAD_TIMEOUT_S", 0.5)
    async with _raw(api) as (reader, writer), asyncio.timeout(10):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-a: ")
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-a: " + b"a" * 40_000, b"431"),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-a: " + b"a" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x-a: 1\r\n" * 10_000 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n", b"400"),
        (b"\x16\x03\x01 this is TLS\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (
            b"POST /v1/tenants/acme/replays HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"400",
        ),
        (b"GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n", b"400"),
    ],
)
async def test_malformed_http_gets_a_problem_document(api: Api, sent: bytes, status: bytes) -> None:
    """The server closes the connection if it cannot continue."""
    async with _raw(api) as (reader, writer), asyncio.timeout(10):
        writer.write(sent)
        answer = await reader.readuntil(b"}")

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in answer


async def test_random_bytes_never_make_it_fail(api: Api) -> None:
    """The process survives random bytes, and responds to the next request."""
    chance = random.Random(7)  # noqa: S311 - the same bytes each time
    for _ in range(50):
        async with _raw(api) as (_, writer):
            writer.write(chance.randbytes(chance.randrange(1, 2000)))
            with contextlib.suppress(OSError):
                await writer.drain()

    assert (await api.with_token(None)("GET", "/healthz")).status == 200
