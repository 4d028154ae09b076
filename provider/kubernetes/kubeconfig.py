"""Kubeconfig: address, CA and credentials of an API server, for processes outside a cluster.

kubernetes-asyncio loads the kubeconfig, with its contexts, merged files and credential plugins. The package imports
every API and every kind of object, which costs about 60 MB, so only this module imports it, and only on demand. Pods
use their service account and never import the library. Secrets are never read through the library: its client logs
whole Secrets at DEBUG, reads proxies from the environment and follows redirects.
"""

import base64
import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

from provider.errors import ProviderMisconfigured
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.tls import CaBundle
from provider.opaque import Opaque

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.kube_config import ConfigNode

_FILES: Final = ("certificate-authority", "client-certificate", "client-key")


async def load_kubeconfig(path: Path | str, context: str | None = None) -> ApiServerConfig:
    """Load the API server of a context, the current one by default. A proxy in the kubeconfig is not used.

    `path` may list several files, as `KUBECONFIG` does. Raises `ProviderMisconfigured`, also for a kubeconfig that
    skips the verification of certificates.
    """
    configuration, trust = await _load(path, context)
    return ApiServerConfig(
        url=str(configuration.host),
        trust=trust,
        credentials=_KubeconfigCredentials(path, context, _authorization(configuration)),
        server_name=configuration.tls_server_name,
    )


@final
class _KubeconfigCredentials(Opaque):
    """`Authorization` header of a kubeconfig. Loading the kubeconfig again may run a credential plugin."""

    __slots__ = ("_context", "_header", "_path")

    def __init__(self, path: Path | str, context: str | None, header: str | None) -> None:
        self._path = path
        self._context = context
        self._header = header

    async def read_authorization(self, *, fresh: bool) -> str | None:
        """Return the header. Raises `ProviderMisconfigured`."""
        if fresh:
            configuration, _ = await _load(self._path, self._context)
            self._header = _authorization(configuration)
        return self._header


async def _load(path: Path | str, context: str | None) -> "tuple[Configuration, CaBundle]":
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_kube_config_from_dict  # pyright: ignore[reportUnknownVariableType] - it has no types
    from kubernetes_asyncio.config.kube_config import KubeConfigMerger

    _silence_library()
    configuration, loaded = Configuration(), False
    with tempfile.TemporaryDirectory(prefix="oneprotect-") as directory:
        with contextlib.suppress(Exception):  # a parser's message quotes the file, and a plugin may raise anything
            merged = cast("ConfigNode", KubeConfigMerger(str(path)).config)
            await _resolve_files(merged, context, Path(directory))
            await load_kube_config_from_dict(merged, context=context, client_configuration=configuration)
            loaded = True
        if not loaded:
            raise ProviderMisconfigured("The kubeconfig, or the context in it, could not be loaded.")
        if not configuration.verify_ssl:
            raise ProviderMisconfigured("The kubeconfig sets insecure-skip-tls-verify, which is refused.")
        return configuration, CaBundle(
            ca_file=configuration.ssl_ca_cert,
            certificate_file=configuration.cert_file,
            key_file=configuration.key_file,
        )


async def _resolve_files(merged: "ConfigNode", context: str | None, directory: Path) -> None:
    """Run the context's credential plugin, and write inline certificates and keys to files in `directory`.

    The library would write the files itself, and keep them and their content until the process ends.
    """
    entries: dict[str, list[Any]] = {kind: merged.value[kind] for kind in ("contexts", "clusters", "users")}
    by_name = {(kind, entry.value["name"]): entry.value for kind in entries for entry in entries[kind]}
    chosen = by_name["contexts", context or merged.value["current-context"]]["context"]
    user: dict[str, Any] = by_name.get(("users", chosen.get("user")), {}).get("user") or {}
    if "exec" in user:
        await _run_plugin(user)
    cluster: dict[str, Any] = by_name.get(("clusters", chosen.get("cluster")), {}).get("cluster") or {}
    for values in (cluster, user):
        for option in _FILES:
            if data := values.pop(f"{option}-data", None):
                file = directory / option
                file.write_bytes(base64.b64decode(data))
                values[option] = str(file)


async def _run_plugin(user: dict[str, Any]) -> None:
    """Replace the plugin of `user` by the token, or the certificate and key, that the plugin returns."""
    from kubernetes_asyncio.config.exec_provider import ExecProvider
    from kubernetes_asyncio.config.kube_config import ConfigNode

    status: dict[str, str] = await ExecProvider(ConfigNode("exec", user.pop("exec"))).run()
    if "token" in status:
        user["token"] = status["token"]
        return
    for option, field in (("client-certificate", "clientCertificateData"), ("client-key", "clientKeyData")):
        user[f"{option}-data"] = base64.b64encode(status[field].encode()).decode()


def _authorization(configuration: "Configuration") -> str | None:
    header = cast("dict[str, str]", configuration.api_key).get("BearerToken")  # pyright: ignore[reportUnknownMemberType] - it has no types
    return header.strip() if header else None


def _silence_library() -> None:
    """Drop all log records of the library: its messages quote credential plugins. A filter outlives level changes."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "kubernetes_asyncio":
            logging.getLogger(name).addFilter(_reject)  # adding a filter again does nothing


def _reject(_: logging.LogRecord) -> bool:
    return False
