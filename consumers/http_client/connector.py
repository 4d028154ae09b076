"""New connections: TCP to the first address that answers, then TLS.

The egress policy has checked the address; the code that creates the socket checks it again. The certificate has to be
for the host name, which the handshake names.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from consumers.egress.policy import AddrInfo, EgressPolicy, ValidatedUrl
from consumers.http_client.connection import ConnectionKey, HttpConnection
from consumers.http_client.dialer import Dial, connect_happy_eyeballs, interleave_families
from consumers.http_client.pool import ConnectionPool
from consumers.http_client.response import SendError, connect_error_code
from consumers.http_client.tls import TlsTransport
from consumers.http_client.turns import ReadTurns
from schemas.codes import Code


class HttpConnector:
    """Opens connections for `pool`. Create it inside a running event loop."""

    def __init__(self, policy: EgressPolicy, pool: ConnectionPool, dial: Dial, *, ca_file: Path | None) -> None:
        self._policy = policy
        self._pool = pool
        self._dial = dial
        self._context = _tls_context(ca_file)
        self._turns = ReadTurns()

    async def open(
        self, tenant: str, target: ValidatedUrl, addresses: Sequence[AddrInfo], begin: Callable[[HttpConnection], None]
    ) -> None:
        """Connect a tenant to one of `addresses`, and call `begin`. Raises `SendError` or `EgressBlocked`."""
        for address in addresses:
            self._policy.guard_address(address)
        tls = TlsTransport(self._context, target.host, tenant, self._turns) if target.scheme == "https" else None
        sock, address = await connect_happy_eyeballs(self._dial, interleave_families(addresses))
        connection = HttpConnection(connection_key(tenant, target, address), sock, self._pool, tls)
        begin(connection)
        self._pool.add(connection)
        try:
            await _attach(connection, tls, sock)
        except BaseException:
            sock.close()
            connection.drop()
            self._pool.remove(connection)
            raise


async def _attach(connection: HttpConnection, tls: TlsTransport | None, sock: socket.socket) -> None:
    if tls is None:
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
        return
    try:
        await tls.connect(sock, connection, on_part=connection.on_incomplete_read)
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
    # The receiver would choose the prime, and one of 8192 bits takes a fifth of a second.
    context.set_ciphers(":".join([one["name"] for one in context.get_ciphers() if one["kea"] != "kx-dhe"]))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context
