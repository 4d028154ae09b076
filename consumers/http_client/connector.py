"""New connections: TCP to the first address that answers, then TLS.

The egress policy has checked the address; the code that creates the socket checks it again. The certificate has to be
for the host name, which the handshake names.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from consumers.egress.policy import AddrInfo, EgressPolicy, ValidatedUrl
from consumers.http_client.connection import ConnectionKey, HttpConnection
from consumers.http_client.dialer import Dial, connect_happy_eyeballs, interleave_families
from consumers.http_client.pool import ConnectionPool
from consumers.http_client.response import SendError, connect_error_code
from schemas.codes import Code

_NO_TIMEOUT_S: Final = 3600.0
"""Exchanges have a deadline of their own."""


class HttpConnector:
    """Opens connections for `pool`. Create it inside a running event loop."""

    def __init__(self, policy: EgressPolicy, pool: ConnectionPool, dial: Dial, *, ca_file: Path | None) -> None:
        self._policy = policy
        self._pool = pool
        self._dial = dial
        self._tls = _tls_context(ca_file)

    async def open(
        self, tenant: str, target: ValidatedUrl, addresses: Sequence[AddrInfo], begin: Callable[[HttpConnection], None]
    ) -> None:
        """Connect a tenant to one of `addresses`, and call `begin`. Raises `SendError` or `EgressBlocked`."""
        for address in addresses:
            self._policy.guard_address(address)
        sock, address = await connect_happy_eyeballs(self._dial, interleave_families(addresses))
        connection = HttpConnection(connection_key(tenant, target, address), sock, self._pool)
        begin(connection)
        self._pool.add(connection)
        try:
            await self._attach(connection, target, sock)
        except BaseException:
            sock.close()
            connection.drop()
            self._pool.remove(connection)
            raise

    async def _attach(self, connection: HttpConnection, target: ValidatedUrl, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if target.scheme == "http":
            await loop.create_connection(lambda: connection, sock=sock)
            return
        try:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls,
                server_hostname=target.host,
                ssl_handshake_timeout=_NO_TIMEOUT_S,
            )
        except OSError as error:  # those of `ssl` among them
            code = connect_error_code(error, otherwise=Code.NET_TLS)
        else:
            return
        raise SendError(code)


def connection_key(tenant: str, target: ValidatedUrl, address: AddrInfo) -> ConnectionKey:
    """Return the key of a tenant's connections to an address of `target`."""
    return tenant, target.scheme, target.host, target.port, str(address[4][0])


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies certificates."""
    context = ssl.create_default_context()
    context.options |= ssl.OP_NO_RENEGOTIATION  # each would cost a receiver a few bytes, and the consumer a handshake
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context
