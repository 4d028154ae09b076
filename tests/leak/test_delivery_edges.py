"""Deliveries to receivers and servers that repeat secrets: echoes, foreign errors, pasted paths."""

import base64
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from messaging.client.connection import IncomingMessage
from tests.leak.support.commands import Run, ran
from tests.leak.support.listening import Listener
from tests.leak.support.secured import secured
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Canary, Search
from tests.support.site import Site
from tests.support.waiting import until

ECHOES: dict[str, Callable[[str], str]] = {
    "JSON with escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "percent-encoded": lambda text: text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    "in two lines": lambda text: f"{text[:24]}\n{text[24:]}",
    "in groups of hex": lambda text: text.encode().hex(":"),
    "letter by letter": "-".join,
    "in base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16")).decode(),
    "its second half": lambda text: text[len(text) // 2 :],
    "cut off at 1 KiB": lambda text: f"{'. ' * 499}{text}",
}


@contextlib.asynccontextmanager
async def _receiver(handle: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncGenerator[str]:
    """A receiver of the test, and its URL."""
    application = web.Application()
    application.router.add_post("/in", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/in"
    await runner.cleanup()


@pytest.mark.parametrize("write", ECHOES.values(), ids=ECHOES)
async def test_a_captured_response_shows_no_signature_and_no_secret(site: Site, write: Callable[[str], str]) -> None:
    """A captured response is redacted even if the receiver prints its secret and the signature."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers["webhook-signature"].removeprefix("v1,"))
        return web.Response(text=write(seen[-1]) + " " + write(site.secret))

    async with _receiver(handle) as url:
        await site.destination("echo", url, capture_response=True)
        async with site.consumer():
            delivery = await site.deliver("echo")
            await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    search = Search(Canary("signature", seen[0]), Canary("secret", site.secret))
    assert search.find(result.response_body or "") == []


async def test_a_captured_response_shows_nothing_of_the_destinations_configuration(site: Site) -> None:
    """A captured response shows neither the URL's query nor the configured headers, which may be credentials."""
    query, header = Canary.word("URL's query"), Canary.word("destination's header")

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.path_qs} {request.headers['x-api-key']}")

    async with _receiver(handle) as url:
        await site.destination(
            "echo", f"{url}?token={query.reveal()}", headers={"x-api-key": header.reveal()}, capture_response=True
        )
        async with site.consumer():
            delivery = await site.deliver("echo")
            await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    assert Search(query, header).find(result.response_body or "") == []


async def test_a_foreign_error_in_a_callback_is_logged_by_type(site: Site, listener: Listener, sinks: Sinks) -> None:
    """The log has the type of a callback's exception, and not its text."""
    canary = Canary.secret()

    async def receive(_: IncomingMessage) -> None:
        raise KeyError(canary.reveal())

    await site.jetstream.connection.subscribe("pending.error", receive)
    await site.jetstream.connection.publish("pending.error")
    await until(lambda: sinks.holds("structlog", "nats.error"))
    listener.finish()

    assert sinks.findings(Search(canary)) == []


@pytest.mark.parametrize("command", [("apply", "--check"), ("attempts", "--json")])
async def test_a_secret_pasted_as_the_credentials_file_is_not_repeated(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The client library's error names the file, and the log does not repeat it."""
    pasted = Canary.secret("pasted secret")
    async with secured(tmp_path) as server:
        environ = {"ONEPROTECT_NATS_URL": server.url, "ONEPROTECT_NATS_CREDS_FILE": pasted.reveal()}

        (result,) = await ran(environ, [Run(command)])

    assert result.code == 1
    assert Search(pasted).find(result.out + result.err) == []
