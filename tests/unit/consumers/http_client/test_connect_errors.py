"""Codes of system errors that cannot be caused on loopback."""

import errno
import os
import ssl
import traceback

import pytest

from consumers.http_client.response import SendError, connect_error_code
from schemas.codes import Code


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ECONNREFUSED, Code.NET_REFUSED),
        (errno.ENETUNREACH, Code.NET_REFUSED),
        (errno.EHOSTUNREACH, Code.NET_REFUSED),
        (errno.EADDRNOTAVAIL, Code.NET_REFUSED),
        (errno.EPERM, Code.NET_REFUSED),
        (errno.ECONNRESET, Code.NET_REFUSED),
        (errno.ETIMEDOUT, Code.NET_TIMEOUT),
        (errno.EMFILE, Code.INTERNAL),
        (errno.ENFILE, Code.INTERNAL),
        (errno.ENOMEM, Code.INTERNAL),
        (errno.ENOBUFS, Code.INTERNAL),
    ],
)
def test_a_failed_connection_has_the_code_of_its_kind(number: int, code: Code) -> None:
    """Failures of the receiver or network have other codes than exhausted local resources."""
    assert connect_error_code(OSError(number, os.strerror(number)), otherwise=Code.NET_REFUSED) is code


@pytest.mark.parametrize("error", [ssl.SSLCertVerificationError(), ConnectionResetError(), ConnectionAbortedError()])
def test_a_handshake_that_fails_is_one_of_tls(error: OSError) -> None:
    """Between connecting and sending there is only the handshake to break, in whichever way."""
    assert connect_error_code(error, otherwise=Code.NET_TLS) is Code.NET_TLS


def test_a_failure_contains_only_its_code() -> None:
    """The exception has no other text and no cause."""
    failed = SendError(Code.NET_TLS)

    assert "".join(traceback.format_exception_only(failed)).strip().endswith("SendError: net.tls")
    assert (failed.code, failed.args, failed.__context__) == (Code.NET_TLS, ("net.tls",), None)
