"""The operator's egress proxy: a tunnel by CONNECT to an address that the egress policy has checked."""

import asyncio
import socket
from typing import Final

import structlog
from msgspec import Struct

from consumers.dns.resolver import NameResolver
from consumers.egress.policy import AddrInfo, EgressPolicy
from consumers.http_client.dialer import MAX_ADDRESSES, Dial, connect_happy_eyeballs, connect_socket
from consumers.http_client.resolver import DnsCache, address_finder
from consumers.http_client.response import SendError
from schemas.codes import Code

MAX_PROXY_HEAD_BYTES: Final = 8192

_log = structlog.get_logger(__name__)


class HttpProxy(Struct, frozen=True):
    """Host and port of the proxy. The egress policy does not apply to its own addresses."""

    host: str
    port: int


def proxy_dialer(proxy: HttpProxy, policy: EgressPolicy, resolver: NameResolver) -> Dial:
    """Return a function that connects through `proxy`, to the checked address: the proxy resolves no name.

    The proxy's own name is the operator's, so search domains complete it.
    """
    addresses = DnsCache(address_finder(resolver, policy=None, search=True))

    async def dial(address: AddrInfo) -> socket.socket:
        policy.guard_address(address)
        try:
            at = await addresses.resolve("", (proxy.host, proxy.port))
        except SendError:
            _log.warning("egress.proxy_unknown")
            raise SendError(Code.NET_REFUSED) from None
        sock, _ = await connect_happy_eyeballs(
            lambda one: connect_socket(socket.socket(*one[:3]), one), at[:MAX_ADDRESSES]
        )
        try:
            await _open_tunnel(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    return dial


async def _open_tunnel(sock: socket.socket, address: AddrInfo) -> None:
    """Request a tunnel from the proxy behind `sock` (RFC 9110, section 9.3.6)."""
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
