"""TLS to the API server, verified with the CAs in a file that may change while the process runs."""

import contextlib
import ssl
import time
from collections.abc import Callable
from functools import partial
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

    __slots__ = ("_ca_file", "_checked_at", "_clock", "_content", "_create", "context")

    def __init__(
        self,
        *,
        ca_file: Path | str | None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Trust only the CAs in `ca_file`, or the system's without a file. Raises `ProviderMisconfigured`."""
        self._ca_file = ca_file
        self._clock = clock
        self._checked_at = clock()
        self._create = partial(
            create_client_context, ca_file=ca_file, certificate_file=certificate_file, key_file=key_file
        )
        # Read before the context: a change in between is noticed at the next check.
        self._content = _read(ca_file)
        self.context = self._create()

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
            self.context = self._create()
        except ProviderMisconfigured:
            return  # perhaps half written
        self._content = content


def create_client_context(
    *, ca_file: Path | str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, from TLS 1.2. Raises `ProviderMisconfigured`."""
    problem = "The file with the API server's CA is missing, unreadable or holds no certificate."
    with contextlib.suppress(OSError, ValueError):
        context = ssl.create_default_context(cafile=ca_file)
        problem = "The client certificate or its key is missing, unreadable or encrypted."
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file, password="")  # no prompt on the terminal
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        # Python 3.13 requires extensions that the CAs of existing clusters lack.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context
    raise ProviderMisconfigured(problem)  # outside the block: a traceback must not keep the foreign exception


def _read(ca_file: Path | str | None) -> bytes | None:
    try:
        return None if ca_file is None else Path(ca_file).read_bytes()
    except OSError:
        return None
