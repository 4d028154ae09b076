"""TLS over a TCP connection, for which the work that a receiver's records cause is bounded.

OpenSSL handles records without data itself: the handshake, session tickets, key updates. A ticket of 18 bytes costs
34 µs, so a connection has a budget for such records, and OpenSSL gets one record at a time. One of 16 KiB may take
30 ms: reads of tenants take turns.
A key exchange over a finite field takes up to 180 ms, which a receiver without a certificate can ask for. Python cannot
stop OpenSSL from offering these groups, so the receiver's choice is refused before OpenSSL reads it.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast, final

from consumers.http_client.turns import ReadTurns

MAX_HANDSHAKE_BYTES: Final = 32 * 1024
"""Budget of a handshake. Certificates usually take 3 to 6 KB."""
MAX_EMPTY_BYTES: Final = 4 * 1024
"""Budget of all records without data after the handshake. Servers send one to four tickets of some 250 bytes."""
RECORD_COST_BYTES: Final = 64
"""What each of those records costs in addition."""

_HANDSHAKE: Final = 22
_SERVER_HELLO: Final = 2
_FINITE_FIELD: Final = b"\x00\x33\x00\x02\x01"
"""The extension of a HelloRetryRequest that asks for a key share of a group 0x01.. (RFC 8446, section 4.2.8)."""
_HEADER_BYTES: Final = 5
_MAX_RECORD_BYTES: Final = _HEADER_BYTES + 16 * 1024 + 2048
_VERSION: Final = 3
"""The first byte of every version that is spoken."""


@final
class TlsTransport(asyncio.Protocol):
    """The transport of an `HttpConnection`, and the protocol of the TCP connection below it."""

    __slots__ = (
        "_budget",
        "_connection",
        "_error",
        "_handshaken",
        "_has_hello",
        "_incoming",
        "_is_open",
        "_is_paused",
        "_on_part",
        "_outgoing",
        "_received",
        "_tcp",
        "_tenant",
        "_tls",
        "_turns",
        "waits",
    )

    _connection: asyncio.Protocol
    _tcp: asyncio.Transport

    def __init__(self, context: ssl.SSLContext, host: str, tenant: str, turns: ReadTurns) -> None:
        self._tenant = tenant
        self._turns = turns
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._budget = MAX_HANDSHAKE_BYTES
        self._received = b""
        """What is not decrypted yet."""
        self._error: OSError | None = None
        self._handshaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_hello = self._is_open = self._is_paused = False
        self.waits = False
        """Set while received bytes wait for their turn."""

    async def connect(self, sock: socket.socket, connection: asyncio.Protocol, *, on_part: Callable[[], None]) -> None:
        """Shake hands over `sock`, and connect `connection`. `on_part` is called for a read without a whole record.

        Raises `OSError`, of which `ssl.SSLError` is one.
        """
        self._connection = connection
        self._on_part = on_part
        await asyncio.get_running_loop().create_connection(lambda: self, sock=sock)
        try:
            await self._handshaken
        except BaseException:
            self.abort()
            raise
        if self._error is not None:
            raise self._error

    def has_unread(self) -> bool:
        """Return True if part of a record has arrived, or bytes wait for their turn."""
        return bool(self._received)

    # The transport of the connection above

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        try:
            self._tls.write(data)
        except OSError as error:
            self._error = error
            self.abort()
        else:
            self._flush()

    def get_write_buffer_size(self) -> int:
        """Return the number of encrypted bytes that are not sent yet."""
        return self._tcp.get_write_buffer_size()

    def is_closing(self) -> bool:
        """Return True if the connection is closed or being closed."""
        return self._tcp.is_closing()

    def abort(self) -> None:
        """Close at once."""
        self._tcp.abort()

    def pause_reading(self) -> None:
        """Leave what arrives to the kernel."""
        self._is_paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_paused = False
        self._update_reading()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first message of the handshake."""
        self._tcp = cast("asyncio.Transport", transport)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Decrypt the records that are complete, when it is the tenant's turn."""
        self._received += data
        if not self._turns.take(self._tenant, self._read):
            self.waits = True
            self._update_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the connection, or to who waits for the handshake."""
        if self._is_open:
            self._connection.connection_lost(self._error or exc)
        elif self._error is None:
            self._error = exc if isinstance(exc, OSError) else ConnectionResetError()
        self._wake()
        del self._connection, self._on_part  # they refer to us

    # Records

    def _read(self) -> bool:
        """Decrypt the complete records, and return False if the receiver broke a rule."""
        has_waited, self.waits = self.waits, False
        if self._tcp.is_closing():
            return True
        parts: list[bytes] = []
        has_ended = False
        size = len(self._received)
        try:
            has_ended = self._decrypt(parts)
        except OSError as error:
            self._error = error
        if self._outgoing.pending:
            self._flush()
        if parts:
            self._connection.data_received(b"".join(parts))
        elif len(self._received) == size:
            self._on_part()
        if self._error is not None:
            self.abort()
            return False
        if has_ended:
            self._on_close_notify()
        if has_waited:
            self._update_reading()
        return True

    def _decrypt(self, parts: list[bytes]) -> bool:
        """Add the data of the complete records to `parts`, and return True for the end of all data.

        What cannot be a record is passed on with all that follows: OpenSSL refuses it by its header.
        """
        received, at = self._received, 0
        while (left := len(received) - at) >= _HEADER_BYTES:
            size = _HEADER_BYTES + (received[at + 3] << 8 | received[at + 4])
            if size > _MAX_RECORD_BYTES or received[at + 1] != _VERSION:
                size = left
            elif size > left:
                break
            record = received[at : at + size]
            at += size
            try:
                if not self._is_open:
                    self._shake_hands(record)
                    continue
                self._incoming.write(record)
                if part := self._tls.read(size):
                    parts.append(part)
                else:
                    return True
            except ssl.SSLWantReadError:
                self._budget -= size + RECORD_COST_BYTES
                if self._budget < 0:
                    raise ssl.SSLError("The records without data exceed the limit.") from None
        self._received = received[at:]
        return False

    def _shake_hands(self, record: bytes) -> None:
        if record[0] == _HANDSHAKE and not self._has_hello:
            self._has_hello = True
            _check_hello(record)
        self._incoming.write(record)
        self._tls.do_handshake()
        self._is_open = True
        self._budget = MAX_EMPTY_BYTES
        self._connection.connection_made(cast("asyncio.Transport", self))
        self._wake()

    def _on_close_notify(self) -> None:
        self._connection.eof_received()
        if not self._tcp.is_closing():
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
            self._tcp.close()

    def _flush(self) -> None:
        self._tcp.write(self._outgoing.read())

    def _wake(self) -> None:
        if not self._handshaken.done():
            self._handshaken.set_result(None)

    def _update_reading(self) -> None:
        if self._tcp.is_closing():
            return
        if self._is_paused or self.waits:
            self._tcp.pause_reading()
        else:
            self._tcp.resume_reading()


def _check_hello(record: bytes) -> None:
    """Refuse a finite field. The hello must be complete, so that its extension cannot be in two records."""
    end = _HEADER_BYTES + 4 + int.from_bytes(record[_HEADER_BYTES + 1 : _HEADER_BYTES + 4])
    if len(record) < end or record[_HEADER_BYTES] != _SERVER_HELLO or _FINITE_FIELD in record[:end]:
        raise ssl.SSLError("The receiver asks for a key exchange that is not supported.")
