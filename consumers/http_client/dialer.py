"""TCP to an address that the egress policy has checked: straight, or through the operator's proxy."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from consumers.egress.policy import AddrInfo, EgressPolicy
from consumers.http_client.errors import SendError, connect_error_code
from schemas.codes import Code

HEAD_START_S: Final = 0.25
"""How long an address has for itself before the next one is tried beside it (RFC 8305, section 5)."""
MAX_ADDRESSES: Final = 6
MAX_PROXY_HEAD_BYTES: Final = 8192

_log = structlog.get_logger(__name__)

Dial = Callable[[AddrInfo], Awaitable[socket.socket]]
"""Connects to an address. Raises `SendError` or `ConnectionBlocked`."""


class HttpProxy(Struct, frozen=True):
    """Where the operator's proxy listens. Its own addresses are not held against the egress policy."""

    host: str
    port: int


def direct_dialer(policy: EgressPolicy) -> Dial:
    """The way without a proxy."""

    async def reach(address: AddrInfo) -> socket.socket:
        return await _connected(policy.guard_socket(address), address)

    return reach


def proxy_dialer(proxy: HttpProxy, policy: EgressPolicy) -> Dial:
    """The way through `proxy`: by CONNECT to the address that was checked here, so that it resolves nothing anew."""
    loop = asyncio.get_running_loop()

    async def reach(address: AddrInfo) -> socket.socket:
        policy.guard_address(address)
        try:
            at = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
        except OSError:
            at = []
        if not at:
            _log.warning("egress.proxy_unknown")
            raise SendError(Code.NET_REFUSED)
        sock, _ = await connect_happy_eyeballs(lambda one: _connected(socket.socket(*one[:3]), one), at[:MAX_ADDRESSES])
        try:
            await _open_tunnel(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    return reach


async def connect_happy_eyeballs(reach: Dial, addresses: Sequence[AddrInfo]) -> tuple[socket.socket, AddrInfo]:
    """The first socket to be connected, and where to: each address has a head start before the next one.

    If none can be reached, raises what the first one to fail did.
    """
    if len(addresses) == 1:
        return await reach(addresses[0]), addresses[0]
    waiting = iter(addresses)
    running: dict[asyncio.Future[socket.socket], AddrInfo] = {}
    failures: list[BaseException] = []
    try:
        while True:
            following = next(waiting, None)
            if following is not None:
                running[asyncio.ensure_future(reach(following))] = following
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
    """The preferred family first, and then both in turns, so that one that leads nowhere costs one head start."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [one for pair in itertools.zip_longest(first, others) for one in pair if one is not None][:MAX_ADDRESSES]


async def _close(attempts: dict[asyncio.Future[socket.socket], AddrInfo]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for late in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(late, socket.socket):
            late.close()


async def _connected(sock: socket.socket, address: AddrInfo) -> socket.socket:
    try:
        sock.setblocking(False)
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


async def _open_tunnel(sock: socket.socket, address: AddrInfo) -> None:
    """Ask the proxy at the other end of `sock` for a tunnel (RFC 9110, section 9.3.6)."""
    loop, (host, port) = asyncio.get_running_loop(), address[4][:2]
    at = (f"[{host!s}]:{port!s}" if ":" in str(host) else f"{host!s}:{port!s}").encode()
    answer = b""
    try:
        await loop.sock_sendall(sock, b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (at, at))
        while b"\r\n\r\n" not in answer and len(answer) < MAX_PROXY_HEAD_BYTES:
            part = await loop.sock_recv(sock, MAX_PROXY_HEAD_BYTES)
            if not part:
                break
            answer += part
    except OSError:
        answer = b""
    if answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")) and answer.find(b"\r\n\r\n") == len(answer) - 4:
        return
    _log.warning("egress.proxy_refused", status=answer[9:12].decode("ascii", "replace"))
    raise SendError(Code.NET_REFUSED)
