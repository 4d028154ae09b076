"""TLS to the API server, verified with the CAs in a file that may change while the process runs."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

from provider.errors import ProviderMisconfigured

RELOAD_INTERVAL_S: Final = 60.0


@final
class CaBundle:
    """TLS context with the CAs of a file, replaced when the file changes.

    A connection belongs to the context that opened it: a new context opens new connections, and requests in flight
    finish on the old ones.
    """

    __slots__ = ("_ca_file", "_certificate_file", "_checked_at", "_clock", "_content", "_key_file", "context")

    def __init__(
        self,
        *,
        ca_file: Path | str | None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the files.

        Args:
            ca_file: the only trusted CAs, in PEM; None for the system's.
            certificate_file: client certificate, in PEM.
            key_file: key of the client certificate.
            clock: monotonic seconds.

        Raises:
            ProviderMisconfigured: a file is missing, unreadable or malformed.
        """
        self._ca_file = ca_file
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._clock = clock
        self._checked_at = clock()
        # Read before the context: a change in between is noticed at the next check.
        self._content = _read(ca_file)
        self.context = create_client_context(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)

    def reload_if_due(self) -> None:
        """Check the file for a change, at most once a minute."""
        if self._clock() - self._checked_at >= RELOAD_INTERVAL_S:
            self.reload()

    def reload(self) -> None:
        """Check the file for a change now. An unusable file changes nothing and is checked again."""
        self._checked_at = self._clock()
        content = _read(self._ca_file)
        if content is None or content == self._content:
            return
        try:
            self.context = create_client_context(
                ca_file=self._ca_file, certificate_file=self._certificate_file, key_file=self._key_file
            )
        except ProviderMisconfigured:
            return  # perhaps half written
        self._content = content


def create_client_context(
    *, ca_file: Path | str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, from TLS 1.2. Raises `ProviderMisconfigured`."""
    context = _trust_only(ca_file)
    if context is None:
        raise ProviderMisconfigured("The file with the API server's CA is missing, unreadable or holds no certificate.")
    if certificate_file is not None and not _load_client_certificate(context, certificate_file, key_file):
        raise ProviderMisconfigured("The client certificate or its key is missing, unreadable or encrypted.")
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    # Python 3.13 requires extensions that the CAs of existing clusters lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _read(ca_file: Path | str | None) -> bytes | None:
    try:
        return None if ca_file is None else Path(ca_file).read_bytes()
    except OSError:
        return None


def _trust_only(ca_file: Path | str | None) -> ssl.SSLContext | None:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError):
        return None


def _load_client_certificate(context: ssl.SSLContext, certificate_file: str, key_file: str | None) -> bool:
    try:
        context.load_cert_chain(certificate_file, key_file, password="")  # no prompt on the terminal
    except (OSError, ValueError):
        return False
    return True
