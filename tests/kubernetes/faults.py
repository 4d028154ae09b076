"""Faulty answers of the API server."""

import asyncio
import gzip
import json

from aiohttp import web

from tests.kubernetes.apiserver import Answer, ApiServer
from tests.kubernetes.manifests import Manifest
from tests.kubernetes.statuses import failure


def saying(status: int, text: str = "", content_type: str = "text/plain", **headers: str) -> Answer:
    """Return any text."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status,
            text=text,
            content_type=content_type,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return answer


def too_many_requests(retry_after: str = "1") -> Answer:
    """Return the plain text of the server's request limit."""
    return saying(429, "Too many requests, please try again later.\n", Retry_After=retry_after)


def internal_error() -> Answer:
    """Return the error of a load balancer before the server."""
    return saying(500, "<html><body><h1>500 Internal Server Error</h1></body></html>", "text/html")


def timed_out() -> Answer:
    """Return the error of a server whose storage lags."""

    async def answer(_: web.Request) -> web.StreamResponse:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        message = "Timeout: Too large resource version: 9999, current: 258"
        details = {"causes": causes, "retryAfterSeconds": 1}
        return failure(504, "Timeout", message, details, **{"Retry-After": "1"})

    return answer


def with_status(server: ApiServer, status: int) -> Answer:
    """The right body with another status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await server.answer(request)
        response.set_status(status)
        return response

    return answer


def cut_json(document: Manifest) -> Answer:
    """Answer the first half of the JSON as if it were all."""
    text = json.dumps(document)
    return saying(200, text[: len(text) // 2], "application/json")


def cut_body(document: Manifest, *, reset: bool = False) -> Answer:
    """Announce the whole body, send half, and hang up, or reset the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = json.dumps(document).encode()
        response = await _begun(request, len(body))
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        if reset:
            request.transport.abort()
        else:
            request.transport.close()
        return response

    return answer


def dripping(server: ApiServer) -> Answer:
    """Send a space now and then until the gate opens or 10 s are over."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _begun(request, 500)
        for _ in range(500):
            if server.gate.is_set():
                break
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    return answer


def endless(server: ApiServer) -> Answer:
    """Send spaces until the client disconnects, 100 MB at most."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _begun(request)
        for _ in range(1000):
            if server.gate.is_set():
                break
            await response.write(b" " * 100_000)
        return response

    return answer


def oversized(document: Manifest, size: int) -> Answer:
    """Answer valid JSON of a valid Secret, with `size` spaces before it, in chunks."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _begun(request)
        for _ in range(size // 10_000):
            await response.write(b" " * 10_000)
        await response.write(json.dumps(document).encode())
        return response

    return answer


def gzipped(document: Manifest, *, blanks: int = 0) -> Answer:
    """Answer with an unrequested compressed body, which may expand to many times its size."""
    body = gzip.compress(b" " * blanks + json.dumps(document).encode(), 1)

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})

    return answer


def stalled(server: ApiServer) -> Answer:
    """Answer correctly, but not before the gate opens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await server.gate.wait()
        return await server.answer(request)

    return answer


def hanging_up() -> Answer:
    """Reset the connection instead of answering."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


async def _begun(request: web.Request, length: int | None = None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    if length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    await response.prepare(request)
    return response
