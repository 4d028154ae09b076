"""From the HTTP client's exceptions to codes, for what cannot be had on loopback."""

import errno
import os
import socket

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from consumers.egress import ConnectionBlocked, Rule
from consumers.sender import code_of
from schemas.codes import Code

WHERE = ConnectionKey(
    "hooks.example.com", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)


def connecting(number: int) -> aiohttp.ClientConnectorError:
    """A connection that failed with this error number."""
    return aiohttp.ClientConnectorError(WHERE, OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (connecting(errno.ECONNREFUSED), Code.NET_REFUSED),
        (connecting(errno.ENETUNREACH), Code.NET_REFUSED),
        (connecting(errno.EHOSTUNREACH), Code.NET_REFUSED),
        (connecting(errno.EADDRNOTAVAIL), Code.NET_REFUSED),
        (connecting(errno.EPERM), Code.NET_REFUSED),
        (connecting(errno.ETIMEDOUT), Code.NET_TIMEOUT),
        (connecting(errno.ECONNRESET), Code.NET_TLS),
        (connecting(errno.EPIPE), Code.NET_TLS),
        (connecting(errno.EMFILE), Code.INTERNAL),
        (connecting(errno.ENFILE), Code.INTERNAL),
        (connecting(errno.ENOBUFS), Code.INTERNAL),
        (aiohttp.ClientConnectorError(WHERE, OSError("Multiple exceptions: ...")), Code.NET_REFUSED),
        (aiohttp.ClientConnectorError(WHERE, ConnectionBlocked(Rule.ADDRESS)), Code.NET_BLOCKED),
        (aiohttp.ClientConnectorDNSError(WHERE, ConnectionBlocked(Rule.RESOLVED)), Code.NET_BLOCKED),
        (aiohttp.ClientConnectorDNSError(WHERE, socket.gaierror(socket.EAI_AGAIN, "again")), Code.NET_DNS),
        (aiohttp.InvalidURL("https://hooks.example.com/c4n4ry"), Code.NET_BLOCKED),
        (aiohttp.ServerDisconnectedError(), Code.NET_RESET),
        (aiohttp.ClientOSError(errno.EPIPE, "broken"), Code.NET_RESET),
        (aiohttp.ClientConnectionError("Connector is closed."), Code.NET_RESET),
        (aiohttp.ClientPayloadError(), Code.NET_RESET),
        (TimeoutError(), Code.NET_TIMEOUT),
        (aiohttp.ServerTimeoutError(), Code.NET_TIMEOUT),
        (RuntimeError("Session is closed"), Code.INTERNAL),
        (KeyError("c4n4ry"), Code.INTERNAL),
    ],
)
def test_a_failure_has_the_code_of_its_kind(error: Exception, code: Code) -> None:
    """Where it happened and what the system said decide; what is no failure of the receiver's is ours."""
    assert code_of(error) is code


def test_an_unknown_failure_is_logged_by_its_type_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of ours leaves a line that names the type, and nothing that the exception says."""
    code_of(KeyError("c4n4ry"))

    written = "".join(capsys.readouterr())
    assert "KeyError" in written
    assert "c4n4ry" not in written
