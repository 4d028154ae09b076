"""Selection of the secret provider. No other module selects one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from provider.errors import ProviderMisconfigured
from provider.provider import SnapshotReader

if TYPE_CHECKING:
    from provider.kubernetes.access_review import AccessReviews

ProviderName = Literal["kubernetes", "local"]


def is_pod(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process runs in a Kubernetes pod."""
    return "KUBERNETES_SERVICE_HOST" in environ


async def open_reader(
    provider: ProviderName | None,
    *,
    namespaces: frozenset[str],
    local_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> SnapshotReader:
    """Open the provider without a cache. Outside a cluster, `kubernetes` uses the kubeconfig.

    Raises:
        ProviderMisconfigured: There is no provider name, or `local` has no `local_dir`. There is no default.
    """
    if provider is None:
        raise ProviderMisconfigured("No secret provider is configured.")
    if provider == "local":
        from provider.local import LocalSecretProvider

        if local_dir is None:
            raise ProviderMisconfigured("The local provider needs a directory.")
        return LocalSecretProvider(local_dir, namespaces_allowed=namespaces)

    from provider.kubernetes.provider import KubernetesSecretProvider

    if is_pod(environ):
        return await KubernetesSecretProvider.in_cluster(namespaces_allowed=namespaces)
    kubeconfig = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    return await KubernetesSecretProvider.from_kubeconfig(kubeconfig, namespaces_allowed=namespaces)


async def open_reviews() -> "AccessReviews":
    """Open access reviews for this pod's service account. Raises `ProviderMisconfigured` outside a pod."""
    from provider.kubernetes.access_review import AccessReviews
    from provider.kubernetes.api_server import SERVICE_ACCOUNT, ApiServerConfig

    return AccessReviews(await ApiServerConfig.in_cluster(directory=SERVICE_ACCOUNT, environ=os.environ))
