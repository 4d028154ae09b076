"""API server: address, trusted CAs, and the credentials of this process."""

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, final

from provider.errors import ProviderMisconfigured
from provider.kubernetes.tls import CaBundle
from provider.opaque import Opaque

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_MAX_AGE_S: Final = 60.0
"""Age at which a token is read again. The kubelet renews a token at least two minutes before its end."""

_MAX_TOKEN_BYTES = 64 * 1024
_TOKEN = re.compile(rb"[!-~]+")


class ApiServerCredentials(Protocol):
    """Credentials of this process."""

    async def read_authorization(self, *, fresh: bool) -> str | None:
        """Return the `Authorization` header; None with a client certificate. `fresh` skips what is in memory."""
        ...


@final
class TokenFile(Opaque):
    """Bearer token in a file that the kubelet keeps renewing."""

    __slots__ = ("_clock", "_header", "_path", "_read_at")

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._header: str | None = None
        self._read_at = 0.0

    async def read_authorization(self, *, fresh: bool) -> str:
        """Return the header; the file is read when `fresh` or after a minute. Raises `OSError` or `ValueError`."""
        header = self._header
        if header is None or fresh or self._clock() - self._read_at >= TOKEN_MAX_AGE_S:
            header = self._header = self._read()
            self._read_at = self._clock()
        return header

    def _read(self) -> str:
        # Not in a thread: the volume is memory, and a full thread pool must not block reads of Secrets.
        with self._path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).strip()
        if _TOKEN.fullmatch(token) is None:
            raise ValueError("no token in the file")
        return f"Bearer {token.decode('ascii')}"


@final
class ApiServerConfig:
    """An API server: URL, trusted CAs, credentials, and the host name in its certificate."""

    __slots__ = ("credentials", "server_name", "trust", "url")

    def __init__(
        self, *, url: str, trust: CaBundle, credentials: ApiServerCredentials, server_name: str | None = None
    ) -> None:
        """Hold the parts. Raises `ProviderMisconfigured` unless `url` begins with `https://`."""
        if not url.startswith("https://"):
            raise ProviderMisconfigured("The API server's address must begin with https://.")
        self.url: Final = url.rstrip("/")
        self.trust: Final = trust
        self.credentials: Final = credentials
        self.server_name: Final = server_name

    @classmethod
    async def in_cluster(cls, *, directory: Path, environ: Mapping[str, str]) -> "ApiServerConfig":
        """Return the API server of this pod, with the pod's service account. Raises `ProviderMisconfigured`."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ProviderMisconfigured(
                "This process is not in a pod: KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is missing."
            )
        credentials = TokenFile(directory / "token")
        is_readable = False
        with contextlib.suppress(OSError, ValueError):
            is_readable = bool(await credentials.read_authorization(fresh=True))
        if not is_readable:
            raise ProviderMisconfigured("The service account's token file is missing, empty or unreadable.")
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return cls(url=url, trust=CaBundle(ca_file=directory / "ca.crt"), credentials=credentials)

    def __repr__(self) -> str:
        return "ApiServerConfig(...)"
