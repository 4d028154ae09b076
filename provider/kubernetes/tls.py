"""Whom we take for the API server: the CAs in a file that may be replaced while we run."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

from provider.errors import ProviderMisconfigured

LOOK_EVERY_S: Final = 60.0


@final
class CaBundle:
    """A TLS context that verifies the server by the CAs in a file, and a new one once the file has changed.

    A connection belongs to the context that it was opened with, so none is reused under a new one; what is under way
    on an old connection goes on.
    """

    __slots__ = ("_ca_file", "_certificate_file", "_clock", "_content", "_key_file", "_looked_at", "context")

    def __init__(
        self,
        *,
        ca_file: Path | str | None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Trust the CAs in `ca_file` and no others, or without one the system's. Raises `ProviderMisconfigured`."""
        self._ca_file = ca_file
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._clock = clock
        self._looked_at = clock()
        # Read before the context is made of it: if it changes in between, that is noticed and not missed.
        self._content = _content(ca_file)
        self.context = client_tls(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
        """The latest one that could be made."""

    def look(self) -> None:
        """Look whether the file has changed, if that was not done within the last minute."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self.look_now()

    def look_now(self) -> None:
        """Look whether the file has changed. One that is of no use changes nothing, and will be looked at again."""
        self._looked_at = self._clock()
        content = _content(self._ca_file)
        if content is None or content == self._content:
            return
        try:
            self.context = client_tls(
                ca_file=self._ca_file, certificate_file=self._certificate_file, key_file=self._key_file
            )
        except ProviderMisconfigured:
            return  # half written, perhaps
        self._content = content


def client_tls(
    *, ca_file: Path | str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """A context that verifies certificates and host names, from TLS 1.2 on. Raises `ProviderMisconfigured`."""
    context = _context(ca_file)
    if context is None:
        raise ProviderMisconfigured("The file with the API server's CA is missing, unreadable or holds no certificate.")
    if certificate_file is not None and not _load_identity(context, certificate_file, key_file):
        raise ProviderMisconfigured("The client certificate or its key is missing, unreadable or encrypted.")
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    # Python 3.13 began to ask for extensions that the own CAs of clusters in use do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _content(ca_file: Path | str | None) -> bytes | None:
    """What the file holds now; None if there is none, and as long as there is none."""
    try:
        return None if ca_file is None else Path(ca_file).read_bytes()
    except OSError:
        return None


def _context(ca_file: Path | str | None) -> ssl.SSLContext | None:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError):
        return None


def _load_identity(context: ssl.SSLContext, certificate_file: str, key_file: str | None) -> bool:
    try:
        context.load_cert_chain(certificate_file, key_file, password="")  # without, OpenSSL would ask the terminal
    except (OSError, ValueError):
        return False
    return True
