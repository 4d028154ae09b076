"""What a receiver can make the sender work below HTTP: with the records of TLS."""

import asyncio
import contextlib
import hashlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from typing import Final

import pytest

from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.connector import _tls_context  # pyright: ignore[reportPrivateUsage]
from consumers.http_client.response import WebhookResponse
from consumers.http_client.tls import MAX_EMPTY_BYTES, MAX_HANDSHAKE_BYTES
from consumers.http_client.turns import ReadTurns
from schemas.codes import Code
from tests.component.http_client.cost import Cost
from tests.component.http_client.tls_records import (
    ALERT,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    RecordWriter,
    accept_tls,
    session_ticket,
)
from tests.kubernetes.certificates import Authority
from tests.support.bytewise import OK, receiving
from tests.support.webhooks import send

LOOPBACK: Final = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))
MAX_CPU_S: Final = 0.15
MAX_CALLS: Final = 3000
REFUSED: Final = WebhookResponse(Code.NET_TLS)
TICKET: Final = session_ticket(1)
MANY_TICKETS: Final = TICKET * (16_000 // len(TICKET))
HOSTILE: Final = 20

Serve = Callable[[RecordWriter], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who the receivers' certificates are from."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def opened(authority: Authority) -> AsyncGenerator[HttpWebhookSender]:
    """A sender for as long as it is needed."""
    sender = HttpWebhookSender(LOOPBACK, ca_file=authority.ca_file)
    try:
        yield sender
    finally:
        await sender.aclose()


@contextlib.contextmanager
def serving(authority: Authority, serve: Serve, *, connections: int = 1) -> Generator[int]:
    """Serve each connection in a thread of its own, so that only the sender's own thread is measured."""

    def accept(server: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError), accept_tls(server, context) as writer:
            serve(writer)

    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        contexts = [authority.server_context() for _ in range(connections)]
        threads = [threading.Thread(target=accept, args=(server, context), daemon=True) for context in contexts]
        for thread in threads:
            thread.start()
        yield server.getsockname()[1]
        for thread in threads:
            thread.join(10)


async def post(
    sender: HttpWebhookSender, port: int, *, timeout_s: float = 5.0, tenant: str = "acme"
) -> WebhookResponse:
    """Send an ordinary delivery."""
    return await send(
        sender, f"https://127.0.0.1:{port}/", headers={"x": "y"}, body=b"{}", timeout_s=timeout_s, tenant=tenant
    )


def flooding(start: bytes, kind: int, content: bytes) -> Serve:
    """Answer with `start`, and then with such records without an end."""

    def serve(writer: RecordWriter) -> None:
        writer.receive()
        if start:
            writer.send(writer.seal(DATA, start))
        while True:
            writer.send(b"".join([writer.seal(kind, content) for _ in range(max(1, 1000 // len(content + b"x")))]))

    return serve


@pytest.mark.parametrize("start", [b"", OK[:-1], b"HTTP/1.1 200 OK\r\n"], ids=["no answer", "no end", "no head"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param(HANDSHAKE, MANY_TICKETS, id="records full of tickets"),
        pytest.param(HANDSHAKE, TICKET, id="tickets"),
        pytest.param(HANDSHAKE, TICKET[:1], id="parts of tickets"),
        pytest.param(HANDSHAKE, KEY_UPDATE, id="key updates"),
        pytest.param(HANDSHAKE, KEY_UPDATE[:-1] + b"\1", id="key updates that want an answer"),
        pytest.param(DATA, b"", id="empty records"),
        pytest.param(ALERT, b"\1\x5a", id="warnings"),
    ],
)
async def test_records_without_data_end_the_connection(
    authority: Authority, start: bytes, kind: int, content: bytes
) -> None:
    """The status counts if it has arrived."""
    cost = Cost()

    async with opened(authority) as sender:
        with serving(authority, flooding(start, kind, content)) as port, cost.measured():
            reply = await post(sender, port)

    assert reply.code is (Code.HTTP_2XX if start == OK[:-1] else Code.NET_TLS)
    assert cost.calls < MAX_CALLS, cost.calls
    assert cost.cpu_s < MAX_CPU_S, cost.cpu_s


async def test_the_tickets_that_servers_send_are_no_reason_to_close(authority: Authority) -> None:
    """A few tickets and key updates leave the connection as it is."""

    def serve(writer: RecordWriter) -> None:
        for _ in range(3):
            writer.receive()
            before = writer.seal(HANDSHAKE, session_ticket(250)) + writer.seal(HANDSHAKE, KEY_UPDATE)
            writer.send(before + writer.seal(DATA, OK[:20]) + writer.seal(DATA, OK[20:]))

    async with opened(authority) as sender:
        with serving(authority, serve) as port:
            replies = [await post(sender, port) for _ in range(3)]

    assert {reply.code for reply in replies} == {Code.HTTP_2XX}


async def test_a_part_of_a_record_between_exchanges_closes_the_connection(authority: Authority) -> None:
    """Its other part would otherwise complete an answer to the next request."""
    requests: list[bytes] = []
    part_sent = threading.Event()

    def serve(writer: RecordWriter) -> None:
        requests.append(writer.receive())
        writer.send(writer.seal(DATA, OK))
        if len(requests) == 1:
            early = writer.seal(DATA, OK.replace(b"200", b"500"))
            writer.send(early[:30])
            part_sent.set()
            writer.receive()
            writer.send(early[30:])

    async with opened(authority) as sender:
        with serving(authority, serve, connections=2) as port:
            first = await post(sender, port)
            await asyncio.to_thread(part_sent.wait, 5)
            for _ in range(10):
                await asyncio.sleep(0)  # the loop reads the part
            second = await post(sender, port)

    assert (first.code, second.code, len(requests)) == (Code.HTTP_2XX, Code.HTTP_2XX, 2)


@pytest.mark.parametrize("in_handshake", [True, False])
async def test_a_record_in_segments_of_one_byte_causes_few_reads(authority: Authority, in_handshake: bool) -> None:
    """The sender pauses, as for an answer in small segments."""

    def serve(writer: RecordWriter) -> None:
        writer.receive()
        for byte in writer.seal(DATA, bytes(16_000)):
            writer.send(bytes([byte]))

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for byte in bytes([HANDSHAKE, 3, 3, 0x3F, 0xFF]) + bytes(16_000):
                connection.sendall(bytes([byte]))
            connection.recv(1)

    cost = Cost()
    async with opened(authority) as sender:
        if in_handshake:
            with socket.create_server(("127.0.0.1", 0)) as server:
                thread = threading.Thread(target=drip, args=(server,), daemon=True)
                thread.start()
                with cost.measured():
                    reply = await post(sender, server.getsockname()[1], timeout_s=1)
                await asyncio.to_thread(thread.join, 5)
        else:
            with serving(authority, serve) as port, cost.measured():
                reply = await post(sender, port, timeout_s=1)

    assert reply.code in (Code.NET_TLS, Code.NET_RESET, Code.NET_TIMEOUT)
    assert cost.calls < 500, cost.calls


async def test_a_handshake_that_exceeds_its_limit_is_refused(authority: Authority) -> None:
    """A receiver may present only so many certificates."""
    file, key = authority.issue("127.0.0.1")
    others = b"".join(authority.issue(f"{number}.example.com")[0].read_bytes() for number in range(80))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file.write_bytes(file.read_bytes() + others)
    context.load_cert_chain(file, key)
    cost = Cost()

    async with opened(authority) as sender, receiving(tls=context) as receiver:
        with cost.measured():
            reply = await post(sender, receiver.port)

    assert len(others) > MAX_HANDSHAKE_BYTES > MAX_EMPTY_BYTES
    assert reply == REFUSED


RETRY_RANDOM: Final = hashlib.sha256(b"HelloRetryRequest").digest()


def hello_retry(client_hello: bytes, group: int) -> bytes:
    """Return the message that asks for a key share of `group` after this record (RFC 8446, section 4.1.4)."""
    session = client_hello[43 : 44 + client_hello[43]]  # its length, and itself
    extensions = bytes.fromhex("002b00020304 00330002") + group.to_bytes(2)
    content = b"\3\3" + RETRY_RANDOM + session + bytes.fromhex("1302 00") + len(extensions).to_bytes(2) + extensions
    return b"\2" + len(content).to_bytes(3) + content


def plain_records(*contents: bytes) -> bytes:
    """Return records of the handshake that are not encrypted."""
    return b"".join([bytes([HANDSHAKE, 3, 3]) + len(content).to_bytes(2) + content for content in contents])


@pytest.mark.parametrize(
    ("group", "before", "cuts", "is_refused"),
    [
        pytest.param(0x0104, 0, (), True, id="8192 bits"),
        pytest.param(0x0100, 0, (), True, id="2048 bits"),
        pytest.param(0x0104, 0, (-1,), True, id="in two records"),
        pytest.param(0x0104, 4, (4,), True, id="after another message"),
        pytest.param(0x0104, 4, (), True, id="after another message in one record"),
        pytest.param(0x0018, 0, (), False, id="an elliptic curve"),
    ],
)
async def test_a_receiver_cannot_ask_for_a_key_exchange_that_takes_long(
    authority: Authority, group: int, before: int, cuts: tuple[int, ...], is_refused: bool
) -> None:
    """A share of 8192 bits would take a fifth of a second, before the receiver shows a certificate."""
    sent: list[bytes] = []

    def ask(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            messages = bytes(before) + hello_retry(connection.recv(65536), group)
            connection.sendall(plain_records(*[messages[at:end] for at, end in pairwise((0, *cuts, None))]))
            sent.append(connection.recv(65536))

    async with opened(authority) as sender:
        with socket.create_server(("127.0.0.1", 0)) as server:
            asking = asyncio.create_task(asyncio.to_thread(ask, server))
            reply = await post(sender, server.getsockname()[1])
            await asking

    assert reply == REFUSED
    assert (len(b"".join(sent)) < 100) is is_refused, "more is another hello"


async def test_a_receiver_may_ask_for_another_curve(authority: Authority) -> None:
    """A receiver with one curve, which is not the usual one, is reached."""
    context = authority.server_context()
    context.set_ecdh_curve("secp384r1")

    async with opened(authority) as sender, receiving(tls=context) as receiver:
        reply = await post(sender, receiver.port)

    assert reply.code is Code.HTTP_2XX


def test_no_key_exchange_is_offered_for_which_a_receiver_chooses_the_prime() -> None:
    """A prime of 10,000 bits takes a second."""
    kinds = {one["kea"] for one in _tls_context(None).get_ciphers()}

    assert kinds == {"kx-any", "kx-ecdhe"}


async def test_another_tenant_waits_for_one_record_and_not_for_all(authority: Authority) -> None:
    """Of many receivers that send a costly record at one moment, few are read before another tenant's answer."""
    gate = threading.Barrier(HOSTILE + 1)
    ended: list[str] = []

    def flood(writer: RecordWriter) -> None:
        writer.receive()
        record = writer.seal(HANDSHAKE, MANY_TICKETS)
        gate.wait(10)
        writer.send(record)

    def answer(writer: RecordWriter) -> None:
        writer.receive()
        record = writer.seal(DATA, OK)
        gate.wait(10)
        writer.send(record)

    async def ending(sender: HttpWebhookSender, port: int, tenant: str) -> WebhookResponse:
        reply = await post(sender, port, tenant=tenant, timeout_s=10)
        ended.append(tenant)
        return reply

    async with opened(authority) as sender:
        with serving(authority, flood, connections=HOSTILE) as hostile, serving(authority, answer) as other:
            sending = [ending(sender, hostile, "evil") for _ in range(HOSTILE)]
            *refused, reply = await asyncio.gather(*sending, ending(sender, other, "other"))

    assert reply.code is Code.HTTP_2XX
    assert set(refused) == {REFUSED}
    assert ended.index("other") < HOSTILE / 2, ended


async def test_turns_of_tenants_alternate() -> None:
    """Each slow read of a tenant delays its own next one, and those that wait keep their order."""
    turns, reads = ReadTurns(), list[str]()
    done = asyncio.Event()
    numbers = itertools.count()

    def reading(name: str, *, slow: bool) -> Callable[[], bool]:
        def read() -> bool:
            end = asyncio.get_running_loop().time() + (0.005 if slow else 0)
            while asyncio.get_running_loop().time() < end:
                pass
            reads.append(name)
            if next(numbers) == 5:
                done.set()
            return True

        return read

    taken = [turns.take("evil", reading(f"evil {number}", slow=True)) for number in range(3)]
    taken += [turns.take("other", reading(f"other {number}", slow=False)) for number in range(3)]
    await asyncio.wait_for(done.wait(), 5)

    assert taken == [True, False, False, True, True, True]
    assert reads == ["evil 0", "other 0", "other 1", "other 2", "evil 1", "evil 2"]


async def test_a_read_that_fails_leaves_the_turns_of_its_tenant() -> None:
    """The reads that wait behind it have their turn."""
    turns, reads = ReadTurns(), list[str]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: reads.append("reported"))
    done = asyncio.Event()

    def slow() -> bool:
        end = loop.time() + 0.005
        while loop.time() < end:
            pass
        return True

    def fail() -> bool:
        raise ZeroDivisionError

    def end() -> bool:
        done.set()
        return True

    for read in (slow, fail, end):
        turns.take("acme", read)
    await asyncio.wait_for(done.wait(), 5)

    assert reads == ["reported"]


async def test_an_answer_that_came_in_time_counts_although_it_waits_for_its_turn(authority: Authority) -> None:
    """After a pause of the process, the deadline has passed when the loop reads what had arrived before it."""
    are_ready = threading.Barrier(3)
    is_paused, has_flooded, has_answered = threading.Event(), threading.Event(), threading.Event()

    def flood(writer: RecordWriter) -> None:
        writer.receive()
        are_ready.wait(5)
        is_paused.wait(5)
        writer.send(writer.seal(HANDSHAKE, MANY_TICKETS))
        has_flooded.set()
        writer.receive()

    def answer(writer: RecordWriter) -> None:
        writer.receive()
        are_ready.wait(5)
        has_flooded.wait(5)
        writer.send(writer.seal(DATA, OK))
        has_answered.set()

    def pause() -> None:
        is_paused.set()
        has_answered.wait(5)
        time.sleep(max(0.0, deadline - loop.time()))

    loop = asyncio.get_running_loop()
    async with opened(authority) as sender:
        with serving(authority, flood) as hostile, serving(authority, answer) as other:
            sending = [asyncio.create_task(post(sender, port, timeout_s=2)) for port in (hostile, other)]
            await asyncio.to_thread(are_ready.wait, 5)
            deadline = loop.time() + 2
            pause()
            refused, reply = await asyncio.gather(*sending)

    assert (refused, reply.code) == (REFUSED, Code.HTTP_2XX)
