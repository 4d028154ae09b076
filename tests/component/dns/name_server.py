"""A name server on loopback whose answers a test writes byte by byte, over UDP and TCP on one port."""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

A, CNAME, AAAA = 1, 5, 28


class Question:
    """A query: its bytes, its name and its type."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        labels: list[str] = []
        offset = 12
        while length := message[offset]:
            labels.append(message[offset + 1 : offset + 1 + length].decode())
            offset += 1 + length
        self.name = ".".join(labels)
        self.type = int.from_bytes(message[offset + 1 : offset + 3], "big")

    def answer(
        self, records: Sequence[bytes] = (), *, code: int = 0, flags: int = 0, query_id: int | None = None
    ) -> bytes:
        """Return an answer to this query."""
        own_id = int.from_bytes(self.message[:2], "big")
        head = struct.pack(
            ">HHHHHH", own_id if query_id is None else query_id, 0x8180 | flags | code, 1, len(records), 0, 0
        )
        return head + self.message[12:] + b"".join(records)

    def addresses(self, *addresses: str, ttl_s: int = 60) -> bytes:
        """Return an answer with those of `addresses` that have the queried type."""
        found = [one for one in addresses if self.type == (AAAA if ":" in one else A)]
        return self.answer([address(self.name, one, ttl_s) for one in found])


def name(text: str) -> bytes:
    """Return an encoded name."""
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def record(owner: bytes, record_type: int, data: bytes, ttl_s: int = 60) -> bytes:
    """Return a resource record."""
    return owner + struct.pack(">HHIH", record_type, 1, ttl_s, len(data)) + data


def address(owner: str, text: str, ttl_s: int = 60) -> bytes:
    """Return an address record."""
    parsed = ip_address(text)
    return record(name(owner), A if parsed.version == 4 else AAAA, parsed.packed, ttl_s)


def alias(owner: str, target: str, ttl_s: int = 60) -> bytes:
    """Return an alias record."""
    return record(name(owner), CNAME, name(target), ttl_s)


Respond = Callable[[Question], Sequence[bytes]]
"""Returns the datagrams that answer a question; none for silence."""


class NameServerDouble(asyncio.DatagramProtocol):
    """A name server. `respond` answers over UDP, and `respond_on_stream` over TCP."""

    def __init__(self, respond: Respond, respond_on_stream: Respond) -> None:
        self.respond = respond
        self.respond_on_stream = respond_on_stream
        self.asked: Counter[str] = Counter()
        """Queries over UDP by name."""
        self.streams = 0
        self.peers: list[tuple[str, int]] = []
        """Source of each query over UDP."""
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = Question(data)
        self.asked[question.name] += 1
        self.peers.append(addr)
        for datagram in self.respond(question):
            self._transport.sendto(datagram, addr)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection with one query."""
        self.streams += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            for message in self.respond_on_stream(Question(await reader.readexactly(size))):
                writer.write(len(message).to_bytes(2, "big") + message)
            await reader.read()
        writer.close()


def silence(_: Question) -> Sequence[bytes]:
    """Answer nothing."""
    return ()


@asynccontextmanager
async def serving_names(
    respond: Respond = silence, respond_on_stream: Respond = silence
) -> AsyncGenerator[NameServerDouble]:
    """A name server for as long as it is needed."""
    double = NameServerDouble(respond, respond_on_stream)
    async with await asyncio.start_server(double.accept, "127.0.0.1", 0) as server:
        double.address = server.sockets[0].getsockname()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: double, local_addr=double.address, family=socket.AF_INET
        )
        try:
            yield double
        finally:
            transport.close()
