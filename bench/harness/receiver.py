"""Receiver: a process that answers 200 as fast as Python can, and verifies every request in full.

The process reads a `Setup` from stdin and prints `port <number> ...`. It then reads two commands. After
`expect <count> <warm-up>` it prints `warm <nanoseconds>` and `complete <nanoseconds>` when that many new deliveries
have arrived. After `report <file>` it writes a `Report`. At the first request that it refuses it prints `refused` and
the reason. The verification is written from the specification and shares no code with the product.
"""

import asyncio
import base64
import hmac
import ssl
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Final, Literal, cast

import httptools
import msgspec
import uvloop
from msgspec import Struct

MAX_AGE_S: Final = 300

_HOST: Final = "127.0.0.1"


class Manner(Struct, frozen=True):
    """The behaviour of a receiver: number of ports, delay of a response, whether a response closes its connection."""

    ports: int = 1
    answer_after_s: float = 0.0
    closes: bool = False


class Setup(Struct, frozen=True):
    """The accepted requests: a secret (`whsec_` and base64) for each path, and the expected body.

    `certificate`: the files of a certificate and its key, for TLS.
    """

    secrets: dict[str, str]
    body: bytes
    certificate: tuple[str, str] | None = None
    manner: Manner = Manner()


class Report(Struct):
    """The received requests; `receipts` holds first arrivals in ns since 1970 by `<path> <webhook-id>`."""

    receipts: dict[str, int] = {}
    duplicates: int = 0
    unsigned: int = 0
    wrong: int = 0
    broken: int = 0
    most_waiting: int = 0
    """Requests that waited for their answers at the same time, when they have to."""


class Answers(Struct, frozen=True):
    """Return the response of one second, with the `Date` and `Server` headers of real servers."""

    made_at_s: int
    taken: bytes
    taken_and_closed: bytes
    refused: bytes


def answers_at(now_s: int) -> Answers:
    """The answers of this second."""
    usual = b"date: %b\r\nserver: bench\r\n" % formatdate(now_s, usegmt=True).encode()
    taken = b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n" % usual
    return Answers(
        now_s,
        taken + b"\r\n",
        taken + b"connection: close\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\n%bcontent-length: 0\r\n\r\n" % usual,
    )


class Receiver:
    """Verifies and counts."""

    def __init__(self, setup: Setup) -> None:
        self._keys = {
            path.encode(): base64.b64decode(secret.removeprefix("whsec_")) for path, secret in setup.secrets.items()
        }
        self._body = setup.body
        self.manner = setup.manner
        self.waiting = 0
        self.report = Report()
        self._warm_at = self._complete_at = -1
        self._answers = answers_at(0)

    def expect(self, count: int, warm_up: int) -> None:
        """Say so when `warm_up` and `count` more deliveries have come."""
        have = len(self.report.receipts)
        self._warm_at, self._complete_at = have + warm_up, have + count

    def receive(self, path: bytes, headers: dict[bytes, bytes], body: bytes) -> bytes:
        """Take a request and return the answer."""
        now_ns = time.time_ns()
        now_s = now_ns // 1_000_000_000
        if self._answers.made_at_s != now_s:
            self._answers = answers_at(now_s)
        if b"webhook-signature" not in headers:
            return self._refuse("unsigned")
        if not self._is_right(path, headers, body, now_s):
            return self._refuse("wrong")
        self._record(f"{path.decode()} {headers[b'webhook-id'].decode()}", now_ns)
        return self._answers.taken_and_closed if self.manner.closes else self._answers.taken

    def _refuse(self, reason: Literal["unsigned", "wrong"]) -> bytes:
        if not self.report.unsigned + self.report.wrong:
            _say("refused", reason)
        if reason == "unsigned":
            self.report.unsigned += 1
        else:
            self.report.wrong += 1
        return self._answers.refused

    def _is_right(self, path: bytes, headers: dict[bytes, bytes], body: bytes, now_s: int) -> bool:
        key, timestamp = self._keys.get(path), headers.get(b"webhook-timestamp", b"")
        if key is None or body != self._body or not timestamp.isdigit() or abs(now_s - int(timestamp)) > MAX_AGE_S:
            return False
        signed = b"%b.%b.%b" % (headers.get(b"webhook-id", b""), timestamp, body)
        expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
        return hmac.compare_digest(expected, headers[b"webhook-signature"])

    def _record(self, name: str, now_ns: int) -> None:
        receipts = self.report.receipts
        if name in receipts:
            self.report.duplicates += 1
            return
        receipts[name] = now_ns
        if len(receipts) == self._warm_at:
            _say("warm", now_ns)
        if len(receipts) == self._complete_at:
            _say("complete", now_ns)


class Exchange(asyncio.Protocol):
    """A kept connection."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        """Parse; what is no HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._receiver.report.broken += 1
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._path = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """A part of its path."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer the complete request."""
        receiver, answer = self._receiver, self._receiver.receive(self._path, self._headers, self._body)
        if not receiver.manner.answer_after_s:
            self._answer(answer)
            return
        receiver.waiting += 1
        receiver.report.most_waiting = max(receiver.report.most_waiting, receiver.waiting)
        asyncio.get_running_loop().call_later(receiver.manner.answer_after_s, self._answer_late, answer)

    def _answer_late(self, answer: bytes) -> None:
        self._receiver.waiting -= 1
        self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(answer)
        if self._receiver.manner.closes:
            self._transport.close()


def _say(word: str, what: int | str) -> None:
    print(word, what, flush=True)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    setup = msgspec.json.decode(await lines.readline(), type=Setup)
    receiver, tls = Receiver(setup), None
    if setup.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*setup.certificate)
    ports: list[int] = []
    servers: list[asyncio.AbstractServer] = []  # kept, as they listen for as long as they are
    for _ in range(setup.manner.ports):
        server = await loop.create_server(lambda: Exchange(receiver), _HOST, 0, backlog=1024, ssl=tls)
        ports.append(server.sockets[0].getsockname()[1])
        servers.append(server)
    _say("port", " ".join(map(str, ports)))
    while line := (await lines.readline()).decode().strip():
        command, _, rest = line.partition(" ")
        if command == "expect":
            count, warm_up = rest.split()
            receiver.expect(int(count), int(warm_up))
            _say("expecting", int(count))
        elif command == "report":
            await asyncio.to_thread(Path(rest).write_bytes, msgspec.json.encode(receiver.report))
            _say("reported", len(receiver.report.receipts))


if __name__ == "__main__":
    uvloop.run(_run())
