"""One loop, one receiver and one sender for thousands of examples: what they come to, and what the next one gets."""

import asyncio
from collections.abc import Sequence
from typing import Self

import uvloop

from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.response import WebhookResponse
from tests.support.bytewise import Exchange, receiving
from tests.support.webhooks import send

TIMEOUT_S = 0.25
NEXT = b"HTTP/1.1 299 next\r\ncontent-length: 4\r\n\r\nnext"
POLICY = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))


class Exchanges:
    """Sends deliveries to a receiver that answers as an example says. Use as a context manager."""

    def __init__(self) -> None:
        self._segments: Sequence[bytes] = ()
        self._ending = "close"
        self._said = asyncio.Event()
        self.requests = 0

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._receiving = receiving(self._answer)
        self._receiver = self._runner.run(self._receiving.__aenter__())
        self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._sender.aclose())
        self._runner.run(self._receiving.__aexit__(None, None, None))
        self._runner.close()

    def of(self, segments: Sequence[bytes], ending: str = "close") -> tuple[WebhookResponse, WebhookResponse, float]:
        """The reply to an answer in these segments, the reply to the request after it, and how long the first took."""
        return self._runner.run(self._two(segments, ending))

    async def _open(self) -> None:
        self._sender = HttpWebhookSender(POLICY)

    async def _two(self, segments: Sequence[bytes], ending: str) -> tuple[WebhookResponse, WebhookResponse, float]:
        self._segments, self._ending, self.requests = segments, ending, 0
        self._said.clear()
        began = self._loop.time()
        first = await self._post("first")
        took_s = self._loop.time() - began
        async with asyncio.timeout(5):
            await self._said.wait()
        for _ in range(20):  # on loopback, what has been said is there at once
            await asyncio.sleep(0)
        return first, await self._post("next"), took_s

    async def _post(self, path: str) -> WebhookResponse:
        url = f"http://127.0.0.1:{self._receiver.port}/{path}"
        return await send(self._sender, url, headers={}, body=b"{}", timeout_s=TIMEOUT_S, capture=True)

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.head.startswith(b"POST /next "):
            await exchange.send(NEXT)
            return
        self.requests += 1
        try:
            for segment in self._segments:
                await exchange.send(segment)
            if self._ending != "stay":
                {"close": exchange.close, "reset": exchange.reset, "half-close": exchange.half_close}[self._ending]()
        finally:
            self._said.set()
