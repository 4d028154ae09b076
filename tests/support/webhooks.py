"""A POST and its reply: by the product's HTTP client, and by aiohttp as a reference."""

import asyncio
import ssl
from collections.abc import Mapping

import aiohttp

from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.response import WebhookResponse


async def send(
    sender: HttpWebhookSender,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    timeout_s: float,
    capture: bool = False,
    tenant: str = "acme",
) -> WebhookResponse:
    """Send a POST and return the reply. Cancelling this abandons the request."""
    ended: asyncio.Future[WebhookResponse] = asyncio.get_running_loop().create_future()

    def on_reply(reply: WebhookResponse) -> None:
        if not ended.done():  # a reply may come between a cancellation and its effect
            ended.set_result(reply)

    abandon = sender.start(
        sender.prepare(tenant, url, headers),
        lines="",
        body=body,
        timeout_s=timeout_s,
        capture=capture,
        on_reply=on_reply,
    )
    try:
        return await ended
    except asyncio.CancelledError:
        if ended.cancelled():
            abandon()
        raise


async def status_by_aiohttp(
    url: str, *, timeout_s: float, body: bytes = b"{}", tls: ssl.SSLContext | None = None
) -> int | None:
    """POST by aiohttp on a new connection, without redirects. Returns the status, or None without a valid response."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(url, data=body, allow_redirects=False, ssl=True if tls is None else tls) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
