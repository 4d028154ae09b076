"""Connections of the HTTP sender: reuse, choice of address, caches, and the proxy."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import pytest_asyncio

from consumers.dns.resolver import ResolvedAddresses
from consumers.egress.policy import EgressPolicy
from consumers.http_client import resolver as resolving
from consumers.http_client.client import HttpWebhookSender, PreparedRequest
from consumers.http_client.dialer import HEAD_START_S
from consumers.http_client.proxy import HttpProxy
from consumers.http_client.resolver import FAILED_TTL_S
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from tests.kubernetes.certificates import Authority
from tests.support.bytewise import OK, Exchange, answering, receiving
from tests.support.waiting import until
from tests.support.webhooks import send

LOOPBACK = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))
NAME = "hooks.example.com"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who the receivers' certificates are from."""
    return Authority(tmp_path_factory.mktemp("authority"))


class Names:
    """A name service that gives every name these addresses, and counts."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    async def resolve(self, host: str, *, search: bool = False) -> ResolvedAddresses:
        """Return the addresses."""
        del search
        self.asked += host != "localhost"  # the proxy
        return ResolvedAddresses(self.addresses, 60)


@asynccontextmanager
async def opened(
    names: Names | None = None,
    *,
    ca_file: Path | None = None,
    proxy: HttpProxy | None = None,
    max_idle: int = 100,
    keep_alive_s: float = 60,
) -> AsyncGenerator[HttpWebhookSender]:
    """A sender for as long as it is needed."""
    sender = HttpWebhookSender(
        LOOPBACK,
        ca_file=ca_file,
        resolver=names or Names("127.0.0.1"),
        proxy=proxy,
        max_idle=max_idle,
        keep_alive_s=keep_alive_s,
    )
    try:
        yield sender
    finally:
        await sender.aclose()


async def post(sender: HttpWebhookSender, url: str, *, body: bytes = b"{}", timeout_s: float = 5.0) -> WebhookResponse:
    """Send an ordinary delivery."""
    return await send(sender, url, headers={"x": "y"}, body=body, timeout_s=timeout_s)


# Which connections are used again


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    """An idle connection is closed at its limit, and the next delivery opens another."""
    async with receiving() as receiver, opened(keep_alive_s=0.1) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        await post(sender, url)
        await until(lambda: receiver.closed == 1)
        reply = await post(sender, url)

    assert (reply.code, receiver.connections) == (Code.HTTP_2XX, 2)


async def test_only_so_many_idle_connections_are_kept() -> None:
    """Those that have been idle for longest make room."""
    gate = asyncio.Event()

    async def together(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.send(OK)

    async with receiving(together) as receiver, opened(max_idle=2) as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        sending = [asyncio.create_task(post(sender, url)) for _ in range(5)]
        await until(lambda: len(receiver.exchanges) == 5)
        gate.set()
        replies = await asyncio.gather(*sending)
        await until(lambda: receiver.closed == 3)
        await asyncio.gather(post(sender, url), post(sender, url))

    assert {reply.code for reply in replies} == {Code.HTTP_2XX}
    assert receiver.connections == 5


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """The sender checks the socket, because the loop may not have read yet."""
    is_idle, is_closed = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        served: list[bytes] = []

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    served.append(connection.recv(65536))
                    connection.sendall(OK)
                    is_idle.wait(5)
                is_closed.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        async with opened() as sender:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            first = await post(sender, url)
            is_idle.set()
            is_closed.wait(5)  # the loop cannot read the end
            second = await post(sender, url)
        await asyncio.to_thread(thread.join, 5)

    assert (first.code, second.code) == (Code.HTTP_2XX, Code.HTTP_2XX)
    assert [request[:4] for request in served] == [b"POST", b"POST"]


async def test_tenants_share_no_connection() -> None:
    """Two tenants with one URL have connections of their own, and each uses its own again."""
    async with receiving() as receiver, opened() as sender:
        url = f"http://127.0.0.1:{receiver.port}/"
        for tenant in ("acme", "other", "acme", "other"):
            await send(sender, url, headers={}, body=b"{}", timeout_s=5, tenant=tenant)

    assert (receiver.connections, len(receiver.exchanges)) == (2, 4)


async def test_a_late_response_does_not_answer_the_next_request() -> None:
    """A second response arrives while the loop is busy, right before the next request: it answers nothing."""
    is_late, is_sent = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        requests: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(OK)
                is_late.wait(5)
                connection.sendall(OK)
                is_sent.set()
                fresh, _ = server.accept()
                with fresh:
                    requests.append(fresh.recv(65536))
                    fresh.sendall(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        async with opened() as sender:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            first = await post(sender, url)
            is_late.set()
            is_sent.wait(5)  # the loop cannot read what arrives now
            second = await post(sender, url, timeout_s=2)
        await asyncio.to_thread(thread.join, 5)

    assert (first.code, second.code) == (Code.HTTP_2XX, Code.HTTP_5XX)
    assert len(requests) == 2


async def test_a_response_behind_another_does_not_answer_the_next_request() -> None:
    """Two responses in one segment cost the connection."""

    async def answer_twice(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n" + OK)

    async with receiving(answer_twice) as receiver, opened() as sender:
        replies = [await post(sender, f"http://127.0.0.1:{receiver.port}/") for _ in range(2)]

    assert [reply.code for reply in replies] == [Code.HTTP_5XX] * 2
    assert receiver.connections == 2


async def test_an_early_response_counts() -> None:
    """A response before the end of the request counts, and the connection is not used again."""
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
    closed = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        await closed.wait()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server, opened() as sender:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        replies = [await post(sender, url, body=bytes(20_000_000)) for _ in range(2)]
        closed.set()

    assert replies == [WebhookResponse(Code.HTTP_4XX, 413)] * 2


async def test_a_trailer_may_close_the_connection() -> None:
    """A `Connection: close` trailer makes the next delivery open its own connection."""
    last = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nconnection: close\r\n\r\n"

    async with receiving(answering(last)) as receiver, opened() as sender:
        replies = [await post(sender, f"http://127.0.0.1:{receiver.port}/") for _ in range(3)]

    assert replies == [WebhookResponse(Code.HTTP_2XX, 200)] * 3
    assert receiver.connections == 3


# Which address is tried


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    """A name with a dead address and a live one is delivered to, once."""
    async with receiving() as receiver, opened(Names("127.0.0.2", "127.0.0.1")) as sender:
        reply = await post(sender, f"http://{NAME}:{receiver.port}/")

    assert (reply.code, len(receiver.exchanges)) == (Code.HTTP_2XX, 1)


async def test_an_unresponsive_address_delays_only_by_its_head_start() -> None:
    """The next address of the name gets the delivery long before the deadline."""
    async with receiving() as receiver:
        with socket.socket() as mute, closing(socket.socket()) as one, closing(socket.socket()) as two:
            mute.bind(("127.0.0.2", receiver.port))
            mute.listen(0)
            for filling in (one, two):  # with its backlog full, Linux drops what else would connect
                filling.setblocking(False)
                filling.connect_ex(("127.0.0.2", receiver.port))
            async with opened(Names("127.0.0.2", "127.0.0.1")) as sender:
                began = asyncio.get_running_loop().time()
                reply = await post(sender, f"http://{NAME}:{receiver.port}/", timeout_s=30)
                took_s = asyncio.get_running_loop().time() - began

    assert (reply.code, len(receiver.exchanges)) == (Code.HTTP_2XX, 1)
    assert HEAD_START_S * 0.8 < took_s < 15


async def test_a_name_whose_addresses_all_refuse_is_refused() -> None:
    """The delivery fails as refused if every address refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with opened(Names("127.0.0.1", "127.0.0.2", "127.0.0.3")) as sender:
            reply = await post(sender, f"http://{NAME}:{free.getsockname()[1]}/")

    assert reply == WebhookResponse(Code.NET_REFUSED)


# What is remembered


async def test_concurrent_deliveries_share_one_name_query() -> None:
    """Deliveries at the same time and soon after share one query to the name service."""
    names = Names("127.0.0.1")

    async with receiving() as receiver, opened(names) as sender:
        url = f"http://{NAME}:{receiver.port}/"
        await asyncio.gather(*[post(sender, url) for _ in range(5)])
        await post(sender, url)

    assert names.asked == 1


async def test_a_prepared_request_goes_where_its_name_leads_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are reused while the name's addresses are known, but not to an address that the name left."""
    monkeypatch.setattr(resolving, "MAX_TTL_S", 2.0)
    names = Names("127.0.0.1")

    async with (
        receiving() as receiver,
        receiving(host="127.0.0.2", port=receiver.port) as other,
        opened(names) as sender,
    ):
        request = sender.prepare("acme", f"http://{NAME}:{receiver.port}/", {"x": "y"})
        first, reused = await started(sender, request), await started(sender, request)
        names.addresses = ("127.0.0.2",)
        await until(lambda: request.until < asyncio.get_running_loop().time())
        moved, reused_too = await started(sender, request), await started(sender, request)

    assert {reply.code for reply in (first, reused, moved, reused_too)} == {Code.HTTP_2XX}
    assert [len(one.exchanges) for one in (receiver, other)] == [2, 2]
    assert [one.connections for one in (receiver, other)] == [1, 1]


async def started(sender: HttpWebhookSender, request: PreparedRequest) -> WebhookResponse:
    """Send a prepared request."""
    ended: asyncio.Future[WebhookResponse] = asyncio.get_running_loop().create_future()
    sender.start(request, lines="", body=b"{}", timeout_s=5, capture=False, on_reply=ended.set_result)
    return await ended


async def test_a_failed_name_query_is_cached_briefly() -> None:
    """A failure is cached for a second, and then a new name is found."""
    names = Names()

    async with receiving() as receiver, opened(names) as sender:
        url = f"http://{NAME}:{receiver.port}/"
        failed = [await post(sender, url) for _ in range(3)]
        asked, names.addresses = names.asked, ("127.0.0.1",)

        async def is_found() -> bool:
            return (await post(sender, url)).code is Code.HTTP_2XX

        await until(is_found, deadline_s=FAILED_TTL_S + 5)

    assert failed == [WebhookResponse(Code.NET_DNS)] * 3
    assert asked == 1


# What is said in the handshake


async def test_the_handshake_contains_the_host_name(authority: Authority) -> None:
    """The TLS handshake names the host and not the address, so the receiver can select its certificate."""
    asked: list[str | None] = []
    context = authority.server_context(NAME)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    by_address = authority.server_context("127.0.0.1")
    by_address.sni_callback = lambda _socket, name, _context: asked.append(name)

    async with opened(ca_file=authority.ca_file) as sender:
        for tls, host in ((context, NAME), (by_address, "127.0.0.1")):
            async with receiving(tls=tls) as receiver:
                reply = await post(sender, f"https://{host}:{receiver.port}/")
                assert reply.code is Code.HTTP_2XX

    assert asked == [NAME, None]


# Through a proxy


class Tunnels:
    """A CONNECT proxy that records its requests and can refuse with a status."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.refusal = b""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if self.refusal:
            writer.write(self.refusal)
            writer.close()
            return
        host, _, port = self.heads[-1].split(b" ")[1].decode().rpartition(":")
        onward, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, back), _copy(onward, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


@pytest_asyncio.fixture
async def tunnels() -> AsyncIterator[tuple[Tunnels, HttpProxy]]:
    """A proxy, and where it listens."""
    tunnels = Tunnels()
    async with await asyncio.start_server(tunnels.accept, "127.0.0.1", 0) as server:
        yield tunnels, HttpProxy("localhost", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("encrypted", [False, True])
async def test_all_deliveries_use_the_proxy_tunnel(
    tunnels: tuple[Tunnels, HttpProxy], authority: Authority, *, encrypted: bool
) -> None:
    """The proxy gets a checked address, the receiver's name is verified, and connections are kept."""
    context: ssl.SSLContext | None = authority.server_context(NAME) if encrypted else None
    seen, proxy = tunnels

    async with receiving(tls=context) as receiver, opened(ca_file=authority.ca_file, proxy=proxy) as sender:
        url = f"http{'s' if encrypted else ''}://{NAME}:{receiver.port}/path?secret"
        replies = [await post(sender, url) for _ in range(2)]

    assert {reply.code for reply in replies} == {Code.HTTP_2XX}
    assert receiver.exchanges[0].headers["host"] == f"{NAME}:{receiver.port}"
    at = b"127.0.0.1:%d" % receiver.port
    assert seen.heads == [b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (at, at)]


async def test_a_proxy_is_no_way_around_the_policy(tunnels: tuple[Tunnels, HttpProxy]) -> None:
    """Names with blocked addresses, and blocked addresses, never reach the proxy."""
    seen, proxy = tunnels

    async with opened(Names("10.0.0.1"), proxy=proxy) as sender:
        replies = [await post(sender, f"http://{host}:8080/") for host in (NAME, "10.0.0.1")]

    assert replies == [WebhookResponse(Code.NET_BLOCKED)] * 2
    assert seen.heads == []


@pytest.mark.parametrize(
    "refusal",
    [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 407 x\r\n\r\n", b"hello", b"HTTP/1.1 200 x\r\n\r\nmore", b"\r\n"],
)
async def test_a_proxy_that_refuses_is_a_refusal(tunnels: tuple[Tunnels, HttpProxy], refusal: bytes) -> None:
    """Nothing was sent to the receiver, and there is no way around the proxy."""
    seen, proxy = tunnels
    seen.refusal = refusal

    async with receiving() as receiver, opened(proxy=proxy) as sender:
        reply = await post(sender, f"http://127.0.0.1:{receiver.port}/")

    assert reply == WebhookResponse(Code.NET_REFUSED)
    assert receiver.connections == 0


async def test_an_unreachable_proxy_is_a_refusal() -> None:
    """A sender sends nothing while its proxy is down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = HttpProxy("127.0.0.1", free.getsockname()[1])
        async with receiving() as receiver, opened(proxy=proxy) as sender:
            reply = await post(sender, f"http://127.0.0.1:{receiver.port}/")

    assert (reply, receiver.connections) == (WebhookResponse(Code.NET_REFUSED), 0)
