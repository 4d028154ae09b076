"""Sending a webhook and waiting for its reply, as tests of the HTTP client need it."""

import asyncio
from collections.abc import Mapping

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
) -> WebhookResponse:
    """Send a POST and return the reply. Cancelling this abandons the request."""
    ended: asyncio.Future[WebhookResponse] = asyncio.get_running_loop().create_future()

    def on_reply(reply: WebhookResponse) -> None:
        if not ended.done():  # a reply may come between a cancellation and its effect
            ended.set_result(reply)

    abandon = sender.start(
        sender.prepare(url, headers),
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
