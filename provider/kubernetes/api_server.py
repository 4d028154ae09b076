"""Where an API server is, how to know it, and how it knows us. Needs no Kubernetes library."""

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
"""The kubelet renews a token when a fifth of its life is left, at least two minutes."""

_MAX_TOKEN_BYTES = 64 * 1024
_TOKEN = re.compile(rb"[!-~]+")


class ApiServerCredentials(Protocol):
    """Who we are to the API server."""

    async def authorization(self, *, fresh: bool) -> str | None:
        """The `Authorization` header, read anew when `fresh`; None where a client certificate says it all."""
        ...


@final
class TokenFile(Opaque):
    """A bearer token that something else, such as the kubelet, keeps renewing in a file."""

    __slots__ = ("_clock", "_header", "_path", "_read_at")

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._header: str | None = None
        self._read_at = 0.0

    async def authorization(self, *, fresh: bool) -> str:
        """Read the file when `fresh` or after a minute. Raises `OSError` or `ValueError`."""
        header = self._header
        if header is None or fresh or self._clock() - self._read_at >= TOKEN_MAX_AGE_S:
            header = self._header = self._read()
            self._read_at = self._clock()
        return header

    def _read(self) -> str:
        # Not in a thread: such a volume is memory, and a full thread pool must not keep secrets from being read.
        with self._path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).strip()
        if _TOKEN.fullmatch(token) is None:
            raise ValueError("no token in the file")
        return f"Bearer {token.decode('ascii')}"


@final
class ApiServerConfig:
    """One API server: `https://host:port`, whom to take for it, and our credentials there."""

    __slots__ = ("credentials", "server_name", "trust", "url")

    def __init__(
        self, *, url: str, trust: CaBundle, credentials: ApiServerCredentials, server_name: str | None = None
    ) -> None:
        """Raises `ProviderMisconfigured` unless the connection would be encrypted."""
        if not url.startswith("https://"):
            raise ProviderMisconfigured("The API server's address must begin with https://.")
        self.url: Final = url.rstrip("/")
        self.trust: Final = trust
        self.credentials: Final = credentials
        self.server_name: Final = server_name

    @classmethod
    async def in_cluster(cls, *, directory: Path, environ: Mapping[str, str]) -> "ApiServerConfig":
        """The cluster this pod runs in, with its service account. Raises `ProviderMisconfigured`."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ProviderMisconfigured(
                "This is no pod: KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is missing."
            )
        credentials = TokenFile(directory / "token")
        if not await _works(credentials):
            raise ProviderMisconfigured("The service account's token file is missing, empty or unreadable.")
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return cls(url=url, trust=CaBundle(ca_file=directory / "ca.crt"), credentials=credentials)

    def __repr__(self) -> str:
        return "Cluster(...)"


async def _works(credentials: ApiServerCredentials) -> bool:
    try:
        await credentials.authorization(fresh=True)
    except (OSError, ValueError):
        return False
    return True
