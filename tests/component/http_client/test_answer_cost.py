"""What a receiver can make the sender work: the calls, and the CPU time, of one hostile response."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Generator
from typing import Final

import pytest

from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from tests.component.http_client.cost import Cost
from tests.kubernetes.certificates import Authority
from tests.support.webhooks import send

LOOPBACK: Final = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))
MAX_CALLS: Final = 3000
"""Of Python functions, for a response. An ordinary one takes a few dozen."""
MAX_CPU_S: Final = 0.1
OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"transfer-encoding: chunked\r\n\r\n"
SIZED: Final = OK + b"content-length: 60000\r\n\r\n"
TOO_LARGE: Final = WebhookResponse(Code.NET_RESPONSE_TOO_LARGE)

Answer = tuple[bytes, bytes]
"""What a receiver sends once, and what it repeats without an end."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who the receivers' certificates are from."""
    return Authority(tmp_path_factory.mktemp("authority"))


class Flood:
    """A receiver that answers each request without an end, in a thread: only the sender's own thread is measured."""

    def __init__(self, answer: Answer, *, step: int, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self.step = step
        """Bytes of each write; a write is a segment, or a TLS record."""
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Serve one connection."""
        self._thread.start()
        yield
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            start, repeated = self.answer
            connection.sendall(start)
            part = repeated * max(1, self.step // len(repeated))
            steps = [part[at : at + self.step] for at in range(0, len(part), self.step)]
            while True:
                for one in steps:
                    connection.sendall(one)


async def cost_of(
    answer: Answer,
    *,
    step: int = 256_000,
    capture: bool = False,
    authority: Authority | None = None,
    timeout_s: float = 5.0,
) -> tuple[WebhookResponse, Cost]:
    """Return the reply to a POST that is answered so, and its cost."""
    flood = Flood(answer, step=step, tls=authority.server_context() if authority else None)
    cost = Cost()
    sender = HttpWebhookSender(LOOPBACK, ca_file=authority.ca_file if authority else None)
    url = f"{'https' if authority else 'http'}://127.0.0.1:{flood.port}/"
    with flood.running():
        with cost.measured():
            reply = await send(sender, url, headers={"x": "y"}, body=b"{}", timeout_s=timeout_s, capture=capture)
        await sender.aclose()
    return reply, cost


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((CHUNKED, b"1\r\nz\r\n"), id="tiny chunks"),
        pytest.param((CHUNKED, b'1;a="b"\r\nz\r\n'), id="extensions of tiny chunks"),
        pytest.param((CHUNKED + b"1;", b"a;"), id="one chunk's extensions"),
        pytest.param((CHUNKED, b"0"), id="zeros before a chunk's size"),
        pytest.param((CHUNKED + b"0\r\n", b"a:\r\n"), id="trailers"),
        pytest.param((CHUNKED + b"0\r\na: b\r\n", b" \r\n"), id="a continued trailer"),
        pytest.param((CHUNKED + b"0\r\na: ", b"b"), id="one trailer"),
        pytest.param((SIZED, b"\r\n"), id="empty lines in a body"),
        pytest.param((OK + b"content-length: 0\r\n\r\n", b"\r\n"), id="empty lines after the end"),
        pytest.param((OK + b"content-length: 0\r\n\r\n", OK + b"\r\n"), id="further responses"),
    ],
)
async def test_a_hostile_body_is_read_only_as_far_as_it_is_cheap(answer: Answer, capture: bool) -> None:
    """The status is recorded, and the rest of the response costs little."""
    reply, cost = await cost_of(answer, capture=capture)

    assert (reply.code, reply.http_status) == (Code.HTTP_2XX, 200)
    assert cost.calls < MAX_CALLS, cost.calls
    assert cost.cpu_s < MAX_CPU_S, cost.cpu_s


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((b"", b"HTTP/1.1 103\r\n\r\n"), id="informational responses"),
        pytest.param((b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), id="informational heads"),
        pytest.param((OK, b"a:\r\n"), id="fields"),
        pytest.param((OK + b"a: b\r\n", b" \r\n"), id="a continued field"),
        pytest.param((OK + b"a: ", b"b"), id="one field"),
        pytest.param((OK, b"b"), id="one name"),
        pytest.param((b"HTTP/1.1 200 ", b"b"), id="a reason phrase"),
        pytest.param((b"", b"\r\n"), id="empty lines"),
    ],
)
async def test_a_hostile_head_is_refused_while_it_is_cheap(answer: Answer) -> None:
    """A head without an end is too large."""
    reply, cost = await cost_of(answer)

    assert reply == TOO_LARGE
    assert cost.calls < MAX_CALLS, cost.calls
    assert cost.cpu_s < MAX_CPU_S, cost.cpu_s


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    ("answer", "code"),
    [((SIZED, b"z"), Code.HTTP_2XX), ((CHUNKED, b"1\r\nz\r\n"), Code.HTTP_2XX), ((OK + b"a: ", b"b"), None)],
    ids=["body", "chunks", "head"],
)
async def test_segments_and_records_of_one_byte_cause_few_reads(
    authority: Authority, answer: Answer, code: Code | None, encrypted: bool
) -> None:
    """The sender pauses, and then reads at once what has arrived."""
    reply, cost = await cost_of(answer, step=1, authority=authority if encrypted else None, timeout_s=1.0)

    assert reply.code in ((code,) if code else (Code.NET_TIMEOUT, Code.NET_RESPONSE_TOO_LARGE))
    assert cost.calls < MAX_CALLS, cost.calls
    assert cost.cpu_s < MAX_CPU_S, cost.cpu_s
