"""Connections to NATS over TLS."""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from messaging.client.connection import connect
from messaging.client.transport import BoundedTransport
from tests.kubernetes.certificates import Authority
from tests.support.secured import Keys, ShippedServer

HOST = "127.0.0.1"
CHUNK = b"x" * 1024**2


async def test_a_tls_connection_ends_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end that the server sends is no reason for a line on the terminal."""
    keys = Keys(tmp_path / "keys")
    async with ShippedServer(tmp_path / "nats", keys) as server:
        for _ in range(3):
            async with connect(keys.access("operator", server.url), name="test") as connection:
                await connection.flush()

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def test_what_is_not_read_over_tls_stays_with_the_sender(tmp_path: Path) -> None:
    """The client does not keep in memory what it has not handled yet."""
    authority = Authority(tmp_path)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(*authority.issue(HOST))
    is_done, sent = asyncio.Event(), 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await writer.start_tls(server_context)
        try:
            async with asyncio.timeout(1):
                while sent < 64:
                    writer.write(CHUNK)
                    await writer.drain()
                    sent += 1
        except TimeoutError:
            pass
        finally:
            is_done.set()
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async with await asyncio.start_server(flood, HOST, 0) as listening:
        url = urlparse(f"tls://{HOST}:{listening.sockets[0].getsockname()[1]}")
        opened: Any = BoundedTransport  # untyped
        transport, context = opened(), ssl.create_default_context(cafile=authority.ca_file)
        await transport.connect(url, buffer_size=4096, connect_timeout=5)
        await transport.connect_tls(url, context, buffer_size=4096, connect_timeout=5)
        await is_done.wait()
        transport.close()
        with contextlib.suppress(OSError):
            await transport.wait_closed()

    assert sent < 32, "megabytes"
