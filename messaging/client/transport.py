"""The library's TCP transport, whose reader learns that the connection is encrypted."""

import ssl
from typing import Any
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport


class BoundedTransport(TcpTransport):
    """A TCP transport that reads no more than the client handles, with TLS as well.

    The library starts TLS, but does not connect the reader with the encrypted transport. Then nothing stops the reading
    when its buffer is full, and asyncio warns about `eof_received` when the connection ends.
    """

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Start TLS on the connection."""
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        writer: Any = self._io_writer
        writer.transport.get_protocol().connection_made(writer.transport)

    def __bool__(self) -> bool:
        """Return true also before the connection, since the library replaces a transport that is false."""
        return True
