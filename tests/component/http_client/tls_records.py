"""A receiver over TLS 1.3 that writes records that OpenSSL would not: tickets, key updates, parts of records."""

import contextlib
import hashlib
import socket
import ssl
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ALERT: Final = 21
HANDSHAKE: Final = 22
DATA: Final = 23
KEY_UPDATE: Final = bytes([24, 0, 0, 1, 0])


def session_ticket(size: int) -> bytes:
    """Return a message with a ticket of `size` bytes (RFC 8446, section 4.6.1)."""
    return (
        bytes([4]) + (size + 13).to_bytes(3) + bytes([0, 0, 2, 0, 1, 2, 3, 4, 0]) + size.to_bytes(2) + bytes(size + 2)
    )


class RecordWriter:
    """Seals records for one connection, whose handshake is complete and sent no ticket."""

    def __init__(self, connection: ssl.SSLSocket, secret: bytes) -> None:
        self._connection = connection
        self._use(secret)

    def seal(self, kind: int, content: bytes) -> bytes:
        """Return the next record (RFC 8446, section 5.2)."""
        header = bytes([DATA, 3, 3]) + (len(content) + 17).to_bytes(2)
        nonce = (int.from_bytes(self._iv) ^ self._count).to_bytes(12)
        self._count += 1
        record = header + self._cipher.encrypt(nonce, content + bytes([kind]), header)
        if content == KEY_UPDATE and kind == HANDSHAKE:
            self._use(_expand(self._secret, b"traffic upd", len(self._secret)))
        return record

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        socket.socket.sendall(self._connection, data)

    def receive(self) -> bytes:
        """Return what of the request has arrived."""
        return self._connection.recv(65536)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(_expand(secret, b"key", 32))
        self._iv = _expand(secret, b"iv", 12)
        self._count = 0


@contextlib.contextmanager
def accept_tls(server: socket.socket, context: ssl.SSLContext) -> Generator[RecordWriter]:
    """Accept a connection. The context must serve this one only."""
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory, "keys")
        context.keylog_filename = str(keys)
        context.num_tickets = 0
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(connection, server_side=True) as tls:
            [secret] = [
                line.split()[2] for line in keys.read_text().splitlines() if line.startswith("SERVER_TRAFFIC_SECRET_0")
            ]
            yield RecordWriter(tls, bytes.fromhex(secret))


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """Expand a secret (RFC 8446, section 7.1), with the hash of TLS_AES_256_GCM_SHA384."""
    assert len(secret) == hashlib.sha384().digest_size
    name = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)
