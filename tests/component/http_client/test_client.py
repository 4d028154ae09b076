"""The HTTP sender against receivers that are scripted byte by byte, on loopback."""

import asyncio
import gzip
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from consumers.dns.resolver import NameResolver, ResolvedAddresses
from consumers.egress.policy import AddrInfo, EgressBlocked, EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.connection import BODY_DRAIN_TIMEOUT_S
from consumers.http_client.connector import HttpConnector
from consumers.http_client.dialer import direct_dialer
from consumers.http_client.pool import ConnectionPool
from consumers.http_client.response import CAPTURED_BYTES, MAX_BODY_BYTES, WebhookResponse
from schemas.codes import Code
from tests.kubernetes.certificates import Authority
from tests.support.bytewise import OK, Exchange, Receiver, Script, answering, receiving
from tests.support.waiting import until
from tests.support.webhooks import send

ANY_PORT = ((1024, 65535),)
LOOPBACK = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=ANY_PORT)
NAME = "hooks.example.com"
HEADERS = {"content-type": "application/json", "user-agent": "OneProtect-Delivery/test", "webhook-id": "dlv_1"}
EMPTY_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@pytest_asyncio.fixture
async def sender() -> AsyncIterator[HttpWebhookSender]:
    """A sender that may send to loopback, over plain HTTP."""
    async with opened(LOOPBACK) as sender:
        yield sender


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who the receivers' certificates are from."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def opened(
    policy: EgressPolicy, *, ca_file: Path | None = None, resolver: NameResolver | None = None
) -> AsyncGenerator[HttpWebhookSender]:
    """A sender for as long as it is needed."""
    sender = HttpWebhookSender(policy, ca_file=ca_file, resolver=resolver)
    try:
        yield sender
    finally:
        await sender.aclose()


async def post(
    sender: HttpWebhookSender, url: str, *, body: bytes = b"{}", timeout_s: float = 5.0, capture: bool = False
) -> WebhookResponse:
    """Send an ordinary delivery."""
    return await send(sender, url, headers=HEADERS, body=body, timeout_s=timeout_s, capture=capture)


async def answer_to(
    sender: HttpWebhookSender, script: Script, *, timeout_s: float = 5.0, capture: bool = False
) -> tuple[WebhookResponse, Receiver]:
    """Send one delivery to a receiver with this script."""
    async with receiving(script) as receiver:
        reply = await post(sender, f"http://127.0.0.1:{receiver.port}/in", timeout_s=timeout_s, capture=capture)
    return reply, receiver


async def turns() -> None:
    """Let the event loop read sent data, which arrives at once on loopback."""
    for _ in range(20):
        await asyncio.sleep(0)


class Names:
    """A name service with fixed addresses for every name. It answers when `gate` opens."""

    def __init__(self, *addresses: str, gate: asyncio.Event | None = None) -> None:
        self._addresses = addresses
        self._gate = gate

    async def resolve(self, host: str, *, search: bool = False) -> ResolvedAddresses:
        """Return the addresses."""
        del host, search
        if self._gate:
            await self._gate.wait()
        return ResolvedAddresses(self._addresses, 60)


# What is sent


async def test_the_request_is_the_callers_and_nothing_else(sender: HttpWebhookSender) -> None:
    """The request has the caller's path, query, body and headers, and the headers that HTTP requires."""
    body = b'{"total":  42, "n": "Zo\xc3\xab"}'

    async with receiving() as receiver:
        await post(sender, f"http://127.0.0.1:{receiver.port}/a/../b?c=%20d&e", body=body)
        (exchange,) = receiver.exchanges

    assert exchange.head.startswith(b"POST /a/../b?c=%20d&e HTTP/1.1\r\n")
    assert exchange.body == body
    assert exchange.headers == HEADERS | {
        "host": f"127.0.0.1:{receiver.port}",
        "content-length": str(len(body)),
        "accept-encoding": "identity",
    }


async def test_an_empty_body_is_sent_as_such(sender: HttpWebhookSender) -> None:
    """Nothing is a body, too."""
    async with receiving() as receiver:
        reply = await post(sender, f"http://127.0.0.1:{receiver.port}/", body=b"")

    assert reply.code is Code.HTTP_2XX
    assert receiver.exchanges[0].headers["content-length"] == "0"


async def test_cookies_are_not_kept() -> None:
    """A receiver's cookie does not come back to it."""
    with_cookie = b"HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\ncontent-length: 0\r\n\r\n"
    resolver = Names("127.0.0.1")

    async with receiving(answering(with_cookie)) as receiver, opened(LOOPBACK, resolver=resolver) as sender:
        for _ in range(2):
            await post(sender, f"http://{NAME}:{receiver.port}/")

    assert ["cookie" in exchange.headers for exchange in receiver.exchanges] == [False, False]


async def test_proxies_and_passwords_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pod's proxy variables and netrc are not for deliveries."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password pass\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with opened(LOOPBACK) as sender:
            reply = await post(sender, f"http://127.0.0.1:{receiver.port}/")

    assert reply.code is Code.HTTP_2XX
    assert "authorization" not in receiver.exchanges[0].headers
    assert proxy.connections == 0


# What an answer means


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (OK, WebhookResponse(Code.HTTP_2XX, 200, None, 2)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", WebhookResponse(Code.HTTP_2XX, 204)),
        (b"HTTP/1.1 202\r\ncontent-length: 0\r\n\r\n", WebhookResponse(Code.HTTP_2XX, 202)),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", WebhookResponse(Code.HTTP_3XX, 304)),
        (b"HTTP/1.1 400 x\r\ncontent-length: 1\r\n\r\nx", WebhookResponse(Code.HTTP_4XX, 400, None, 1)),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", WebhookResponse(Code.HTTP_410, 410)),
        (b"HTTP/1.1 429 x\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", WebhookResponse(Code.HTTP_429, 429, 7.0)),
        (
            b"HTTP/1.1 429 x\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n",
            WebhookResponse(Code.HTTP_429, 429, 0.0),
        ),
        (b"HTTP/1.1 503 x\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n", WebhookResponse(Code.HTTP_5XX, 503)),
        (b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n", WebhookResponse(Code.HTTP_5XX, 500)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, WebhookResponse(Code.HTTP_2XX, 200, None, 2)),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK, WebhookResponse(Code.HTTP_2XX, 200, None, 2)),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n",
            WebhookResponse(Code.HTTP_2XX, 200, None, 5),
        ),
    ],
)
async def test_the_status_determines_the_code(sender: HttpWebhookSender, answer: bytes, reply: WebhookResponse) -> None:
    """Each response has its status, code, `Retry-After` and size, and the connection is kept."""
    async with receiving(answering(answer)) as receiver:
        replies = [await post(sender, f"http://127.0.0.1:{receiver.port}/") for _ in range(2)]

    assert replies == [reply, reply]
    assert receiver.connections == 1


async def test_segments_do_not_matter(sender: HttpWebhookSender) -> None:
    """A response that arrives byte by byte has the same result."""
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok"

    reply, _ = await answer_to(sender, answering(*(bytes([byte]) for byte in answer)), capture=True)

    assert reply == WebhookResponse(Code.HTTP_2XX, 201, None, 2, b"ok")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(sender: HttpWebhookSender, status: int) -> None:
    """A redirect is a response, and its target gets no request."""
    async with receiving() as elsewhere:
        location = f"location: http://127.0.0.1:{elsewhere.port}/in".encode()
        redirect = b"HTTP/1.1 %d Moved\r\n%b\r\ncontent-length: 0\r\n\r\n" % (status, location)
        reply, receiver = await answer_to(sender, answering(redirect))

    assert reply == WebhookResponse(Code.HTTP_3XX, status)
    assert (len(receiver.exchanges), elsewhere.connections) == (1, 0)


async def test_the_beginning_of_a_body_is_captured_on_request(sender: HttpWebhookSender) -> None:
    """Bodies are captured only if enabled, and compressed ones stay compressed."""
    body = gzip.compress(bytes(10_000_000))
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    captured, _ = await answer_to(sender, answering(answer), capture=True)
    ordinary, _ = await answer_to(sender, answering(answer))

    assert captured == WebhookResponse(Code.HTTP_2XX, 200, None, len(body), body[:CAPTURED_BYTES])
    assert ordinary == WebhookResponse(Code.HTTP_2XX, 200, None, len(body))


# A body decides nothing


async def after_the_head(exchange: Exchange) -> None:
    """Break the connection off where the body should be."""
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
    exchange.reset()


async def closing_early(exchange: Exchange) -> None:
    """Promise more than is sent."""
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    exchange.close()


async def without_end(exchange: Exchange) -> None:
    """Send a body for ever."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await exchange.send(b"x" * 65536)


async def chunks_without_end(exchange: Exchange) -> None:
    """Send chunks for ever."""
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"4000\r\n" + b"x" * 16384 + b"\r\n")


@pytest.mark.parametrize(
    "script",
    [
        after_the_head,
        closing_early,
        without_end,
        chunks_without_end,
        answering(b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", close=True),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nmore than two"),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 x\r\n\r\n"),
        answering(b'HTTP/1.1 204 No Content\r\n\r\n{"ok": true}'),
        answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno chunk\r\n", close=True),
        answering(b"HTTP/1.0 200 OK\r\n\r\nold", close=True),
        answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
    ],
)
async def test_a_200_counts_whatever_its_body(sender: HttpWebhookSender, script: Script) -> None:
    """A truncated, endless, malformed or surplus body only closes the connection."""
    async with receiving(script) as receiver:
        reply = await post(sender, f"http://127.0.0.1:{receiver.port}/", timeout_s=5)
        await until(lambda: receiver.closed == 1)
        again = await post(sender, f"http://127.0.0.1:{receiver.port}/", timeout_s=5)

    assert (reply.code, again.code) == (Code.HTTP_2XX, Code.HTTP_2XX)
    assert reply.response_bytes <= MAX_BODY_BYTES * 5, "the limit, and the segment that went beyond it"
    assert (receiver.connections, len(receiver.exchanges)) == (2, 2)


async def dripping_body(exchange: Exchange) -> None:
    """Send a long body in small pieces."""
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
    await exchange.drip(b"x")


async def test_a_dripping_body_ends_at_the_deadline(sender: HttpWebhookSender) -> None:
    """A status in time counts, and the body received by then is captured."""
    began = time.monotonic()

    reply, _ = await answer_to(sender, dripping_body, timeout_s=1, capture=True)

    took_s = time.monotonic() - began
    assert (reply.code, reply.http_status) == (Code.HTTP_2XX, 200)
    assert reply.body == b"x" * reply.response_bytes
    assert 0.9 < took_s < BODY_DRAIN_TIMEOUT_S


async def test_a_dripping_body_does_not_use_up_a_long_deadline(sender: HttpWebhookSender) -> None:
    """A body has two seconds after the status, so that it cannot occupy a slot."""
    began = time.monotonic()

    reply, _ = await answer_to(sender, dripping_body, timeout_s=30)

    took_s = time.monotonic() - began
    assert (reply.code, reply.http_status) == (Code.HTTP_2XX, 200)
    assert BODY_DRAIN_TIMEOUT_S - 0.1 < took_s < 15


# No answer


async def before_the_head(exchange: Exchange) -> None:
    """Break the connection off."""
    exchange.reset()


async def within_the_head(exchange: Exchange) -> None:
    """Close the connection after a status line."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.reset()


async def half_closing(exchange: Exchange) -> None:
    """Close the sending side without a response."""
    exchange.half_close()


async def half_closing_within_the_head(exchange: Exchange) -> None:
    """Close the sending side within the head."""
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")
    exchange.half_close()


@pytest.mark.parametrize(
    "script",
    [
        before_the_head,
        within_the_head,
        half_closing,
        half_closing_within_the_head,
        answering(close=True),
        answering(b"HTTP/1.1 200 OK\r\n", close=True),
        answering(b"SSH-2.0-OpenSSH_9.6\r\n"),
        answering(b"hello\r\n\r\n"),
        answering(b"HTTP/1.1 20 OK\r\n\r\n"),
        answering(b"HTTP/1.1 1000 OK\r\n\r\n"),
        answering(b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
        answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nbad\x00name: 1\r\ncontent-length: 0\r\n\r\n"),
        answering(b"\x15\x03\x03\x00\x02\x02\x28"),
    ],
)
async def test_a_connection_that_ends_without_a_head_was_reset(sender: HttpWebhookSender, script: Script) -> None:
    """A reset, closed or malformed connection has no status, and the receiver may have the delivery."""
    reply, receiver = await answer_to(sender, script)

    assert reply == WebhookResponse(Code.NET_RESET)
    assert len(receiver.exchanges) == 1, "and it is not sent again"


async def head_without_end(exchange: Exchange) -> None:
    """Send a header for ever."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        await exchange.send(b"x" * 4096)


@pytest.mark.parametrize(
    "script",
    [
        head_without_end,
        answering(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 9000 + b"\r\n\r\n"),
        answering(b"HTTP/1.1 200 " + b"x" * 9000 + b"\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n"),
    ],
)
async def test_a_huge_head_is_not_read(sender: HttpWebhookSender, script: Script) -> None:
    """Lines of more than 8 KiB, or headers without end, are too large."""
    reply, _ = await answer_to(sender, script)

    assert reply == WebhookResponse(Code.NET_RESPONSE_TOO_LARGE)


async def mute(exchange: Exchange) -> None:
    """Send nothing."""
    await exchange.stay()


async def dripping_head(exchange: Exchange) -> None:
    """Send headers in small pieces."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    await exchange.drip(b"x: y\r\n")


async def never_final(exchange: Exchange) -> None:
    """Send informational responses forever."""
    await exchange.drip(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("script", [mute, dripping_head, never_final])
async def test_no_status_by_the_deadline_is_a_timeout(sender: HttpWebhookSender, script: Script) -> None:
    """Silence, a slow head and endless informational responses end at the deadline and close the connection."""
    began = time.monotonic()

    async with receiving(script) as receiver:
        reply = await post(sender, f"http://127.0.0.1:{receiver.port}/", timeout_s=0.5)
        took_s = time.monotonic() - began
        await until(lambda: receiver.closed == 1)

    assert reply == WebhookResponse(Code.NET_TIMEOUT)
    assert 0.4 < took_s < 10


async def test_a_receiver_that_does_not_read_is_a_timeout(sender: HttpWebhookSender) -> None:
    """The deadline also applies while the request is written."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        reply = await post(sender, url, body=bytes(1_000_000), timeout_s=0.3)

    assert reply == WebhookResponse(Code.NET_TIMEOUT)


async def test_a_closed_port_refuses(sender: HttpWebhookSender) -> None:
    """A refused connection has another code than a reset one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reply = await post(sender, f"http://127.0.0.1:{free.getsockname()[1]}/")

    assert reply == WebhookResponse(Code.NET_REFUSED)


async def test_a_cancelled_attempt_is_cancelled(sender: HttpWebhookSender) -> None:
    """Cancellation is no outcome: it passes through, and the connection is closed."""
    async with receiving(mute) as receiver:
        sending = asyncio.create_task(post(sender, f"http://127.0.0.1:{receiver.port}/", timeout_s=30))
        await until(lambda: receiver.exchanges)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: receiver.closed == 1)

    assert sending.cancelled()


async def test_a_cancelled_reading_of_a_body_is_cancelled(sender: HttpWebhookSender) -> None:
    """The same holds once the status has come."""
    async with receiving(dripping_body) as receiver:
        sending = asyncio.create_task(post(sender, f"http://127.0.0.1:{receiver.port}/", timeout_s=30))
        await until(lambda: receiver.exchanges and receiver.exchanges[0].sent > 60)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: receiver.closed == 1)

    assert sending.cancelled()


@pytest.mark.parametrize(
    "headers", [{"x": "a\r\nb: c"}, {"Host": "a"}, {"x-a": "1", "X-A": "2"}, {"Content-Length": "1"}]
)
async def test_a_header_that_cannot_be_sent_is_an_internal_fault(
    sender: HttpWebhookSender, headers: dict[str, str]
) -> None:
    """A line feed in a value, or a header that would come twice, sends nothing, raises nothing and shows nothing."""
    async with receiving() as receiver:
        reply = await send(sender, f"http://127.0.0.1:{receiver.port}/", headers=headers, body=b"", timeout_s=5)

    assert reply == WebhookResponse(Code.INTERNAL)
    assert receiver.exchanges == []


# Connections


async def test_a_connection_is_used_again(sender: HttpWebhookSender) -> None:
    """Successive deliveries share a connection, and concurrent ones have their own."""
    async with receiving() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        for _ in range(3):
            await post(sender, url)
        connections = receiver.connections
        await asyncio.gather(*[post(sender, url) for _ in range(5)])

    assert connections == 1
    assert 1 < receiver.connections <= 5
    assert len(receiver.exchanges) == 8


async def test_an_unsolicited_response_is_not_used(sender: HttpWebhookSender) -> None:
    """Data on an idle connection belongs to no request, and the next one uses a new connection."""

    async def failing_twice(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n")
        await idle.wait()
        await exchange.send(EMPTY_OK)
        sent.set()

    idle, sent = asyncio.Event(), asyncio.Event()
    async with receiving(failing_twice) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        first = await post(sender, url)
        idle.set()
        await sent.wait()
        await turns()
        second = await post(sender, url)

    assert (first.code, second.code) == (Code.HTTP_5XX, Code.HTTP_5XX)
    assert (receiver.connections, len(receiver.exchanges)) == (2, 2)


async def test_a_connection_that_was_closed_while_idle_is_not_used(sender: HttpWebhookSender) -> None:
    """A receiver that closes after each response gets new connections, and no attempt fails."""
    async with receiving(answering(EMPTY_OK, close=True)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        first = await post(sender, url)
        await until(lambda: receiver.closed == 1)
        await turns()
        second = await post(sender, url)

    assert (first.code, second.code) == (Code.HTTP_2XX, Code.HTTP_2XX)
    assert receiver.connections == 2


@pytest.mark.parametrize(
    ("greeting", "code"), [(b"220 ready\r\n", Code.NET_RESET), (b"HTTP/1.1 503 Busy\r\n\r\n", Code.HTTP_5XX)]
)
async def test_a_receiver_that_sends_first_gets_one_connection(
    sender: HttpWebhookSender, greeting: bytes, code: Code
) -> None:
    """The first data of a new connection is read as its response, without another try."""
    connections = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(greeting)
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        reply = await post(sender, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_s=0.5)

    assert reply.code is code
    assert connections == 1


# Where it may go


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::1]:{port}/",
        "http://localhost:{port}/",
        "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/",
        "http://127.1:{port}/",
        "http://0x7f.1:{port}/",
        "http://①②⑦.⓪.⓪.①:{port}/",
        "http://user@127.0.0.1:{port}/",
        "no url",
    ],
)
async def test_a_blocked_url_connects_to_nothing(sender: HttpWebhookSender, url: str) -> None:
    """No spelling of loopback reaches a receiver that listens there, while the plain one does where it is allowed."""
    async with receiving() as receiver, opened(EgressPolicy(allow_http=True, ports=ANY_PORT)) as strict:
        blocked = await post(strict, url.format(port=receiver.port))
        connections = receiver.connections
        allowed = await post(sender, f"http://127.0.0.1:{receiver.port}/")

    assert blocked == WebhookResponse(Code.NET_BLOCKED)
    assert connections == 0
    assert allowed.code is Code.HTTP_2XX


async def test_the_host_header_contains_the_name() -> None:
    """The connection goes to the address, and the `host` header contains the name."""
    async with (
        receiving() as receiver,
        opened(LOOPBACK, resolver=Names("127.0.0.1")) as sender,
    ):
        reply = await post(sender, f"http://{NAME}:{receiver.port}/")

    assert reply.code is Code.HTTP_2XX
    assert receiver.exchanges[0].headers["host"] == f"{NAME}:{receiver.port}"


async def test_a_name_with_one_blocked_address_is_blocked() -> None:
    """127.0.0.2 would be allowed, but the name has 127.0.0.1 as well."""
    policy = EgressPolicy(allow_cidrs=["127.0.0.2/32"], allow_http=True, ports=ANY_PORT)

    async with receiving(host="127.0.0.2") as receiver:
        url = f"http://{NAME}:{receiver.port}/"
        async with opened(policy, resolver=Names("127.0.0.2")) as sender:
            alone = await post(sender, url)
        names = Names("127.0.0.2", "127.0.0.1")
        async with opened(policy, resolver=names) as sender:
            mixed = await post(sender, url)

    assert (alone.code, mixed) == (Code.HTTP_2XX, WebhookResponse(Code.NET_BLOCKED))
    assert receiver.connections == 1


class Rebinding:
    """A name service that returns another address for each query."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def resolve(self, host: str, *, search: bool = False) -> ResolvedAddresses:
        """Return the next address."""
        del host, search
        return ResolvedAddresses((self.left.pop(0),), 60)


async def test_a_rebound_name_is_blocked() -> None:
    """A name that resolves to loopback at the second query is blocked then."""
    policy = EgressPolicy(allow_cidrs=["127.0.0.2/32"], allow_http=True, ports=ANY_PORT)
    resolver = Rebinding("127.0.0.2", "127.0.0.1")

    async with (
        receiving(host="127.0.0.2") as allowed,
        receiving(host="127.0.0.1") as inside,
        opened(policy, resolver=resolver) as sender,
    ):
        first = await post(sender, f"http://{NAME}:{allowed.port}/")
        second = await post(sender, f"http://{NAME}:{inside.port}/")

    assert (first.code, second) == (Code.HTTP_2XX, WebhookResponse(Code.NET_BLOCKED))
    assert resolver.left == [], "both were asked for"
    assert inside.connections == 0


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_a_blocked_address_is_blocked_at_the_socket(hosts: list[str]) -> None:
    """Whatever a resolver returned, the connector opens no connection to a denied address."""
    policy = EgressPolicy(allow_http=True, ports=ANY_PORT)
    connector = HttpConnector(policy, ConnectionPool(), direct_dialer(policy), ca_file=None)
    begun: list[object] = []

    async with receiving() as receiver:
        target = policy.check_url(f"http://{NAME}:{receiver.port}/")
        addresses: list[AddrInfo] = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, receiver.port)) for host in hosts
        ]
        with pytest.raises(EgressBlocked):
            await connector.open("", target, addresses, begun.append)

    assert (begun, receiver.connections) == ([], 0)


async def test_a_name_that_does_not_exist_is_a_failure_of_the_name_service() -> None:
    """An unknown name has another code than a blocked one."""
    async with opened(LOOPBACK, resolver=Names()) as sender:
        reply = await post(sender, f"http://{NAME}:8080/")

    assert reply == WebhookResponse(Code.NET_DNS)


async def test_the_deadline_includes_the_name_service() -> None:
    """A silent name server causes a timeout and delays no other delivery."""
    gate = asyncio.Event()
    resolver = Names("127.0.0.1", gate=gate)

    async with receiving() as receiver, opened(LOOPBACK, resolver=resolver) as sender:
        slow = await post(sender, f"http://{NAME}:{receiver.port}/", timeout_s=0.2)
        quick = await post(sender, f"http://127.0.0.1:{receiver.port}/")
        gate.set()

    assert (slow, quick.code) == (WebhookResponse(Code.NET_TIMEOUT), Code.HTTP_2XX)


# TLS


async def to_tls(sender: HttpWebhookSender, context: ssl.SSLContext | None, host: str = "127.0.0.1") -> WebhookResponse:
    """Send one delivery over TLS to a receiver with this context."""
    async with receiving(tls=context) as receiver:
        return await post(sender, f"https://{host}:{receiver.port}/")


async def test_a_certificate_of_a_given_authority_is_trusted(authority: Authority) -> None:
    """With its authority's file a receiver is trusted, by address and by name."""
    resolver = Names("127.0.0.1")

    async with opened(LOOPBACK, ca_file=authority.ca_file, resolver=resolver) as sender:
        by_address = await to_tls(sender, authority.server_context())
        by_name = await to_tls(sender, authority.server_context(NAME), NAME)

    assert (by_address.code, by_name.code) == (Code.HTTP_2XX, Code.HTTP_2XX)


async def test_over_tls_connections_are_kept_and_bodies_decide_nothing(authority: Authority) -> None:
    """Encrypted connections behave as plain ones."""
    surplus = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nmore than two")

    async with opened(LOOPBACK, ca_file=authority.ca_file) as sender:
        async with receiving(tls=authority.server_context()) as receiver:
            kept = [await post(sender, f"https://127.0.0.1:{receiver.port}/") for _ in range(3)]
        async with receiving(surplus, tls=authority.server_context()) as careless:
            broken = [await post(sender, f"https://127.0.0.1:{careless.port}/") for _ in range(2)]

    assert {reply.code for reply in kept + broken} == {Code.HTTP_2XX}
    assert (receiver.connections, careless.connections) == (1, 2)


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    """A receiver must prove the requested name."""
    resolver = Names("127.0.0.1")

    async with opened(LOOPBACK, ca_file=authority.ca_file, resolver=resolver) as sender:
        reply = await to_tls(sender, authority.server_context("other.example.com"), NAME)

    assert reply == WebhookResponse(Code.NET_TLS)


async def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: Authority, sender: HttpWebhookSender
) -> None:
    """Without its authority's file a receiver is not trusted, and there is no switch for it."""
    reply = await to_tls(sender, authority.server_context())

    assert reply == WebhookResponse(Code.NET_TLS)


async def to_socket(sender: HttpWebhookSender, serve: Callable[[socket.socket], None]) -> WebhookResponse:
    """Send one delivery over TLS to a receiver that has its connection served by a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = asyncio.create_task(asyncio.to_thread(lambda: serve(server.accept()[0])))
        reply = await post(sender, f"https://127.0.0.1:{server.getsockname()[1]}/")
        await serving
    return reply


async def test_a_plain_receiver_on_a_tls_port_is_refused(sender: HttpWebhookSender) -> None:
    """A receiver without TLS gets no request."""

    def answer_in_the_clear(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    assert await to_socket(sender, answer_in_the_clear) == WebhookResponse(Code.NET_TLS)


async def test_a_receiver_that_hangs_up_in_the_handshake_is_refused(sender: HttpWebhookSender) -> None:
    """No part of the request was sent, so the code differs from a reset connection."""

    def hang_up(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)

    assert await to_socket(sender, hang_up) == WebhookResponse(Code.NET_TLS)


async def test_an_old_tls_is_refused(authority: Authority) -> None:
    """TLS 1.1 is no longer spoken; the same receiver is reached with 1.2."""
    old, new = authority.server_context(), authority.server_context()
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    new.maximum_version = ssl.TLSVersion.TLSv1_2
    for context in (old, new):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")

    async with opened(LOOPBACK, ca_file=authority.ca_file) as sender:
        refused, accepted = await to_tls(sender, old), await to_tls(sender, new)

    assert (refused, accepted.code) == (WebhookResponse(Code.NET_TLS), Code.HTTP_2XX)


async def test_a_receiver_that_wants_a_client_certificate_is_refused(authority: Authority) -> None:
    """TLS 1.2 refuses in the handshake; TLS 1.3 refuses during the request, possibly as a reset."""
    context = authority.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)

    def insist(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                tls.do_handshake()
            while os.read(tls.fileno(), 65536):
                pass

    async with opened(LOOPBACK, ca_file=authority.ca_file) as sender:
        reply = await to_socket(sender, insist)

    assert reply == WebhookResponse(Code.NET_TLS)


# Reported values


async def test_nothing_of_the_request_is_logged_or_returned(
    sender: HttpWebhookSender,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No log or reply of a failed attempt has the path, query, a header or the body."""
    canary = "c4n4ry"
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    headers: Mapping[str, str] = HEADERS | {"webhook-signature": f"v1,{canary}"}
    scripts = (mute, before_the_head, within_the_head, half_closing, head_without_end, after_the_head, dripping_body)
    unfit = (answering(b"hello\r\n\r\n"), answering(b"HTTP/1.1 204 x\r\n\r\njunk"), answering(OK))
    replies: list[WebhookResponse] = []

    for script in (*scripts, *unfit):
        for tls in (None, authority.server_context()) if script is mute else (None,):
            async with receiving(script, tls=tls) as receiver:
                url = f"http{'s' if tls else ''}://127.0.0.1:{receiver.port}/{canary}?{canary}={canary}"
                replies.append(await send(sender, url, headers=headers, body=canary.encode(), timeout_s=0.5))
    for url in (f"http://10.0.0.1/{canary}", f"http://{canary}@127.0.0.1/", f"http://127.0.0.1:1025/{canary}"):
        replies.append(await send(sender, url, headers=headers, body=canary.encode(), timeout_s=0.5))
    replies.append(await send(sender, url, headers={"x": f"{canary}\n"}, body=canary.encode(), timeout_s=0.5))
    logging.getLogger("test").debug("the pipe is alive")

    told = repr(replies) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    written = "".join(capsys.readouterr())
    assert {reply.code for reply in replies} >= {Code.NET_TIMEOUT, Code.NET_RESET, Code.NET_TLS, Code.NET_BLOCKED}
    assert "the pipe is alive" in told
    assert canary not in told + written
