"""TCP connections to addresses that the egress policy has checked."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from consumers.egress.policy import AddrInfo, EgressPolicy
from consumers.http_client.response import SendError, connect_error_code
from schemas.codes import Code

HEAD_START_S: Final = 0.25
"""Time before the next address is tried in parallel (RFC 8305, section 5)."""
MAX_ADDRESSES: Final = 6
RECEIVE_BUFFER_BYTES: Final = 16 * 1024
"""What the kernel holds of an answer, and so the most that one read can make the consumer work for."""

Dial = Callable[[AddrInfo], Awaitable[socket.socket]]
"""Connects to an address. Raises `SendError` or `ConnectionBlocked`."""


def direct_dialer(policy: EgressPolicy) -> Dial:
    """Return a function that connects without a proxy."""

    async def dial(address: AddrInfo) -> socket.socket:
        return await connect_socket(policy.guard_socket(address), address)

    return dial


async def connect_happy_eyeballs(dial: Dial, addresses: Sequence[AddrInfo]) -> tuple[socket.socket, AddrInfo]:
    """Return the first socket that connects, and its address. Each address has a head start before the next one.

    Raises the first error when no address answers.
    """
    if len(addresses) == 1:
        return await dial(addresses[0]), addresses[0]
    waiting = iter(addresses)
    running: dict[asyncio.Future[socket.socket], AddrInfo] = {}
    failures: list[BaseException] = []
    try:
        while True:
            following = next(waiting, None)
            if following is not None:
                running[asyncio.ensure_future(dial(following))] = following
            elif not running:
                raise failures[0]
            head_start_s = None if following is None else HEAD_START_S
            done, _ = await asyncio.wait(running, timeout=head_start_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (failure := attempt.exception()) is None:
                    return attempt.result(), running.pop(attempt)
                failures.append(failure)
                del running[attempt]
    finally:
        await _close(running)


def interleave_families(addresses: Sequence[AddrInfo]) -> list[AddrInfo]:
    """Return the preferred family first, then both in turn: a family without a route costs one head start."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [one for pair in itertools.zip_longest(first, others) for one in pair if one is not None][:MAX_ADDRESSES]


async def _close(attempts: dict[asyncio.Future[socket.socket], AddrInfo]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for late in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(late, socket.socket):
            late.close()


async def connect_socket(sock: socket.socket, address: AddrInfo) -> socket.socket:
    """Connect `sock`, or close it and raise `SendError`."""
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        await asyncio.get_running_loop().sock_connect(sock, address[4])
    except OSError as error:
        sock.close()
        code = connect_error_code(error, otherwise=Code.NET_REFUSED)
    except BaseException:
        sock.close()
        raise
    else:
        return sock
    raise SendError(code)
