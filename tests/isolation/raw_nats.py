"""A NATS client that sends any bytes, as a hostile tenant does, with the key of a user."""

import asyncio
import base64
import contextlib
import importlib
import json
import ssl
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from messaging.client.client import ServerAccess

_nkeys: Any = importlib.import_module("nkeys")  # it has no types


class Received(NamedTuple):
    """A message from the server; `headers` are the raw bytes of the header block."""

    subject: str
    reply: str
    headers: bytes
    data: bytes

    @property
    def status(self) -> str:
        """Return the status in the first header line, or an empty string."""
        return self.headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip().decode()


class RawNats:
    """A connection. `received` and `errors` grow while the connection is open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received: list[Received] = []
        self.errors: list[str] = []
        self.is_closed = False
        self._pongs: asyncio.Queue[None] = asyncio.Queue()
        self._sids = 0

    async def log_in(self, access: ServerAccess, host: str) -> None:
        """Upgrade the connection to TLS, and sign the server's nonce with the user's key."""
        assert access.nkey_file
        info = json.loads((await self._reader.readline()).removeprefix(b"INFO "))
        await self._writer.start_tls(ssl.create_default_context(cafile=str(access.ca_file)), server_hostname=host)
        pair = _nkeys.from_seed(bytearray(access.nkey_file.read_bytes().strip()))
        signature = base64.urlsafe_b64encode(pair.sign(info["nonce"].encode())).rstrip(b"=").decode()
        options = {
            "verbose": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "raw",
            "version": "1",
        }
        self.send(
            b"CONNECT %b\r\n" % json.dumps({**options, "nkey": pair.public_key.decode(), "sig": signature}).encode()
        )

    def send(self, data: bytes) -> None:
        """Send bytes of the protocol."""
        self._writer.write(data)

    def publish(
        self, subject: str | bytes, data: bytes = b"", *, reply: str | bytes = b"", headers: bytes = b""
    ) -> None:
        """Publish a message. `headers` are lines that end with CRLF."""
        to, back = (one.encode() if isinstance(one, str) else one for one in (subject, reply))
        if headers:
            block = b"NATS/1.0\r\n%b\r\n" % headers
            self.send(b"HPUB %b %b %d %d\r\n%b%b\r\n" % (to, back, len(block), len(block) + len(data), block, data))
        else:
            self.send(b"PUB %b %b %d\r\n%b\r\n" % (to, back, len(data), data))

    def subscribe(self, subject: str | bytes) -> None:
        """Subscribe to a subject."""
        self._sids += 1
        self.send(b"SUB %b %d\r\n" % (subject.encode() if isinstance(subject, str) else subject, self._sids))

    async def flush(self) -> None:
        """Wait until the server has handled everything that was sent. A closed connection ends the wait."""
        self.send(b"PING\r\n")
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        if not self.is_closed:
            await self._pongs.get()

    async def read(self) -> None:
        """Read until the connection ends."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while line := await self._reader.readline():
                await self._handle(line)
        self.is_closed = True
        self._pongs.put_nowait(None)

    async def _handle(self, line: bytes) -> None:
        match line.split():
            case [b"MSG" | b"HMSG" as kind, subject, _, *reply, size]:
                header = int(reply.pop()) if kind == b"HMSG" else 0
                block = await self._reader.readexactly(int(size) + 2)
                back = reply[0].decode() if reply else ""
                self.received.append(Received(subject.decode(errors="replace"), back, block[:header], block[header:-2]))
            case [b"PING"]:
                self.send(b"PONG\r\n")
            case [b"PONG"]:
                self._pongs.put_nowait(None)
            case [b"-ERR", *_]:
                self.errors.append(line.decode(errors="replace").strip())
            case _:
                pass


@contextlib.asynccontextmanager
async def raw_nats(access: ServerAccess) -> AsyncGenerator[RawNats]:
    """Connect with a user's key."""
    address = urlsplit(access.url)
    assert address.hostname is not None
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    connection = RawNats(reader, writer)
    await connection.log_in(access, address.hostname)
    reading = asyncio.create_task(connection.read())
    try:
        await connection.flush()
        yield connection
    finally:
        reading.cancel()
        writer.transport.abort()
        await asyncio.wait([reading])
