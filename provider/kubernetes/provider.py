"""Provider that reads Secrets from the Kubernetes API."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from provider.kubernetes.api_server import SERVICE_ACCOUNT, ApiServerConfig
from provider.kubernetes.circuit_breaker import CircuitBreaker
from provider.kubernetes.kubeconfig import load_kubeconfig
from provider.kubernetes.reader import ReadRetryPolicy, SecretReader
from provider.kubernetes.secrets_api import TIMEOUT_S, SecretsApi
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose


@final
class KubernetesSecretProvider:
    """Secrets of one cluster, from the allowed namespaces. Every call is a GET, so put a cache before the provider."""

    __slots__ = ("_api", "_namespaces_allowed", "_reader", "breaker")

    def __init__(
        self,
        *,
        namespaces_allowed: frozenset[str],
        server: ApiServerConfig,
        timeout_s: float = TIMEOUT_S,
        retry_policy: ReadRetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Open a session; nothing is sent yet. `timeout_s` bounds a whole read, see `SecretReader`."""
        self._namespaces_allowed = namespaces_allowed
        self._api = SecretsApi(server)
        self.breaker: Final = breaker or CircuitBreaker()
        """Open while the API server is unreachable: every read is `SecretUnavailable` at once."""
        self._reader = SecretReader(
            self._api, timeout_s=timeout_s, retry_policy=retry_policy or ReadRetryPolicy(), breaker=self.breaker
        )

    @classmethod
    async def in_cluster(
        cls,
        *,
        namespaces_allowed: frozenset[str],
        directory: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
    ) -> "KubernetesSecretProvider":
        """Create the provider of a pod, with its service account. Raises `ProviderMisconfigured`."""
        server = await ApiServerConfig.in_cluster(directory=directory, environ=environ)
        return cls(namespaces_allowed=namespaces_allowed, server=server)

    @classmethod
    async def from_kubeconfig(
        cls, path: Path | str, *, namespaces_allowed: frozenset[str], context: str | None = None
    ) -> "KubernetesSecretProvider":
        """Create the provider of a process outside a cluster. Raises `ProviderMisconfigured`."""
        return cls(namespaces_allowed=namespaces_allowed, server=await load_kubeconfig(path, context))

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """Implement `SecretProvider.resolve`."""
        return (await self.read(ref)).require_secret(ref.key, tenant=tenant, purpose=purpose)

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Implement `SnapshotReader.read`."""
        ref.require_namespace(self._namespaces_allowed)
        found = await self._reader.find_secret(ref)
        if isinstance(found, SecretSnapshot):
            return found
        raise found

    async def aclose(self) -> None:
        """Close the connections. Every later read is `SecretUnavailable`."""
        await self._api.aclose()
