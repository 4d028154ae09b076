"""Queries to one name server: over UDP from a port of its own, over TCP when the answer is truncated.

The socket is connected, so only the server's own address can answer. The id, the port and the question must match. A
wrong answer is a forger's guess: after some of them the query is repeated over TCP, where guesses do not arrive.
"""

import asyncio
import contextlib
import secrets
import socket
from typing import Final

from consumers.dns.message import (
    MAX_MESSAGE_BYTES,
    AddressType,
    DnsAnswer,
    MalformedAnswer,
    decode_answer,
    encode_query,
)
from consumers.dns.system_files import NameServer

RESEND_AFTER_S: Final = 1.0
"""A lost datagram is sent again after this time, and the server has the rest of its time to answer."""
MAX_WRONG_ANSWERS: Final = 16


async def query_server(
    server: NameServer, name: str, record_type: AddressType, *, timeout_s: float, tcp: bool
) -> DnsAnswer | None:
    """Return the server's answer, or None without a usable one.

    Raises:
        TimeoutError: The server did not answer in time.
        ValueError: The name is invalid.
    """
    query = encode_query(secrets.randbelow(0x10000), name, record_type)
    try:
        async with asyncio.timeout(timeout_s):
            answer = None if tcp else await _exchange_datagrams(server, query)
            if answer is None or answer.is_truncated:
                answer = await _exchange_on_stream(server, query)
    except TimeoutError:
        raise
    except (OSError, MalformedAnswer):
        return None
    return None if answer is None or answer.is_truncated else answer


async def _exchange_datagrams(server: NameServer, query: bytes) -> DnsAnswer | None:
    """Return the answer, or None when there were too many wrong ones. Waits without end for a silent server."""
    with _connectable_socket(server, socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.send(query)
        resend = asyncio.get_running_loop().call_later(RESEND_AFTER_S, _send_again, sock, query)
        try:
            for _ in range(MAX_WRONG_ANSWERS):
                message = await asyncio.get_running_loop().sock_recv(sock, MAX_MESSAGE_BYTES)
                if (answer := decode_answer(message, query)) is not None:
                    return answer
        finally:
            resend.cancel()
    return None


def _send_again(sock: socket.socket, query: bytes) -> None:
    with contextlib.suppress(OSError):  # the receiving side reports it
        sock.send(query)


async def _exchange_on_stream(server: NameServer, query: bytes) -> DnsAnswer | None:
    """Return the answer over TCP (RFC 7766), or None when the server sends another one."""
    loop = asyncio.get_running_loop()
    with _connectable_socket(server, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, server.address)
        await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await _receive_exactly(sock, 2), "big")
        if size > MAX_MESSAGE_BYTES:
            raise MalformedAnswer
        return decode_answer(await _receive_exactly(sock, size), query)


async def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, size - len(received))
        if not part:
            raise MalformedAnswer
        received += part
    return received


def _connectable_socket(server: NameServer, kind: int) -> socket.socket:
    sock = socket.socket(server.family, kind)
    sock.setblocking(False)
    return sock
