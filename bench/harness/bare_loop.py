"""Bare loops: minimal programs that deliver signed events from JetStream, with aiohttp or with `bare_http`.

Continuous pull by callback, one HMAC, one POST, one result, and the acknowledgement once the result is stored. The
loop knows its destinations and keys from the start. It has no retries, no egress guard and no fairness, so the
difference to the product is the cost of all these features. It imports nothing of the product.
"""

import asyncio
import base64
import collections
import hmac
import json
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

import aiohttp
import msgspec
import uvloop
from msgspec import Raw, Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.harness.bare_http import BareHttp

KEEP_ALIVE_S: Final = 60.0
EXPIRES_NS: Final = 30_000_000_000


class Target(Struct, frozen=True):
    """A destination: its URL and key."""

    url: str
    key: bytes


class Setup(Struct, frozen=True):
    """The streams to work on, the concurrency, and the targets by `<tenant>.<destination>`."""

    nats_url: str
    stream: str
    consumer: str
    results: str
    in_flight: int
    http: Literal["aiohttp", "own"]
    ca_file: str | None
    targets: dict[str, Target]


class RequestedData(Struct):
    """The data of a request."""

    destination: str
    event_type: str
    payload: Raw


class Requested(Struct):
    """The event that requests a delivery."""

    id: str
    tenant: str
    data: RequestedData


class ResultData(Struct):
    """The data of a result."""

    delivery: str
    destination: str
    event_type: str
    started_at: datetime
    duration_ms: float
    http_status: int
    attempt: int = 1
    outcome: Literal["delivered"] = "delivered"
    code: Literal["http.2xx"] = "http.2xx"


class Result(Struct):
    """The event with the result of a delivery."""

    id: str
    time: datetime
    tenant: str
    data: ResultData
    source: str = "/bench"
    type: str = "bench.delivery.attempted.v1"
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"


Post = Callable[[str, dict[str, str], bytes], Awaitable[int]]
"""A function that POSTs headers and a body to a URL and returns the status."""


class Loop:
    """A loop that pulls, sends, records and acknowledges."""

    def __init__(self, setup: Setup, client: Client, post: Post) -> None:
        self._setup = setup
        self._client = client
        self._post = post
        self._decode = msgspec.json.Decoder(Requested).decode
        self._encode = msgspec.json.Encoder().encode
        self._pull_inbox = client.new_inbox()
        self._ack_inbox = client.new_inbox()
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{setup.stream}.{setup.consumer}"
        self._capacity = 2 * setup.in_flight
        self._outstanding = 0
        self._running = 0
        self._waiting: collections.deque[Msg] = collections.deque()
        self._unrecorded: dict[str, str] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Work until something fails."""
        client: Any = self._client  # its own signatures are only partly typed
        unlimited = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
        await client.subscribe(f"{self._ack_inbox}.*", cb=self._on_recorded, **unlimited)
        await client.subscribe(self._pull_inbox, cb=self._on_message, **unlimited)
        await self._pull()
        await self._failed

    async def _pull(self) -> None:
        room = self._capacity - self._outstanding - self._running - len(self._waiting)
        if room * 2 >= self._capacity:
            self._outstanding += room
            request = json.dumps({"batch": room, "expires": EXPIRES_NS}).encode()
            await self._client.publish(self._pull_subject, request, reply=self._pull_inbox)

    async def _on_message(self, message: Msg) -> None:
        if message.subject == self._pull_inbox:  # the pull request has expired, and reports the undelivered rest
            self._outstanding -= int((message.headers or {}).get("Nats-Pending-Messages", self._outstanding))
            await self._pull()
            return
        self._outstanding -= 1
        if self._running == self._setup.in_flight:
            self._waiting.append(message)
            return
        self._running += 1
        task = asyncio.create_task(self._work(message))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _work(self, message: Msg) -> None:
        """Deliver one message after the other while any is pending."""
        while True:
            await self._deliver(message)
            if not self._waiting:
                break
            message = self._waiting.popleft()
            await self._pull()
        self._running -= 1
        await self._pull()

    async def _deliver(self, message: Msg) -> None:
        event = self._decode(message.data)
        target = self._setup.targets[f"{event.tenant}.{event.data.destination}"]
        body = bytes(event.data.payload)
        began, started_at = time.perf_counter(), datetime.now(UTC)
        timestamp = str(int(started_at.timestamp()))
        signature = hmac.digest(target.key, b"%b.%b.%b" % (event.id.encode(), timestamp.encode(), body), "sha256")
        headers = {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }
        status = await self._post(target.url, headers, body)
        if status != 200:
            raise RuntimeError(f"the receiver said {status}")
        result = ResultData(
            delivery=event.id,
            destination=event.data.destination,
            event_type=event.data.event_type,
            started_at=started_at,
            duration_ms=round((time.perf_counter() - began) * 1000, 3),
            http_status=status,
        )
        await self._record(message, Result(f"{event.id}.1", datetime.now(UTC), event.tenant, result))

    async def _record(self, message: Msg, result: Result) -> None:
        self._count += 1
        token = str(self._count)
        self._unrecorded[token] = message.reply
        subject = f"{self._setup.results}.{result.tenant}.{result.data.destination}"
        await self._client.publish(subject, self._encode(result), reply=f"{self._ack_inbox}.{token}")

    async def _on_recorded(self, message: Msg) -> None:
        if b'"error"' in message.data or not message.data:
            raise RuntimeError("a result was not stored")
        await self._client.publish(self._unrecorded.pop(message.subject.rpartition(".")[2]), b"+ACK")


@asynccontextmanager
async def _by_aiohttp(in_flight: int, tls: ssl.SSLContext | None) -> AsyncGenerator[Post]:
    connector = aiohttp.TCPConnector(limit=in_flight, keepalive_timeout=KEEP_ALIVE_S, ssl=tls or True)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:

        async def post(url: str, headers: dict[str, str], body: bytes) -> int:
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()
                return response.status

        yield post


async def _run() -> None:
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    tls = ssl.create_default_context(cafile=setup.ca_file) if setup.ca_file else None
    client = Client()
    await client.connect(setup.nats_url, pending_size=16 * 1024 * 1024)
    if setup.http == "own":
        await Loop(setup, client, BareHttp(tls).post).run()
        return
    async with _by_aiohttp(setup.in_flight, tls) as post:
        await Loop(setup, client, post).run()


if __name__ == "__main__":
    uvloop.run(_run())
