"""Secrets from the Kubernetes API: one GET of one named Secret, and nothing else.

kubernetes_asyncio brings kubeconfig and the API's paths. Left to itself it logs whole Secrets at DEBUG, turns a broken
body into an empty Secret, has no timeout, takes proxies from the environment and follows redirects. So it sends through
a session of ours and hands back the raw answer; nothing else in the program imports it, and this file only what it
needs of it: the whole takes a second and 57 MB, most of it for the 600 kinds of objects that we never read.
"""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast, final

import aiohttp

from provider.errors import ProviderMisconfigured
from provider.kubernetes.api_server import SERVICE_ACCOUNT, ApiServerConfig
from provider.kubernetes.circuit_breaker import CircuitBreaker
from provider.kubernetes.lazy_packages import register_lazy_packages
from provider.kubernetes.reader import SecretReader
from provider.kubernetes.response import ApiServerResponse, ResponseFault, answer_of, fault_of
from provider.kubernetes.retry import ORDINARY, ReadRetryPolicy
from provider.kubernetes.session import SecretSession
from provider.kubernetes.tls import CaBundle
from provider.opaque import Opaque
from provider.secret_ref import SecretRef
from provider.signing_keys import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration

TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 1.0


@final
class KubernetesSecretProvider:
    """Reads Secrets from one cluster, from the allowed namespaces. Every call is a GET, so put a cache before it."""

    __slots__ = ("_namespaces_allowed", "_reads", "_source", "breaker")

    def __init__(
        self,
        *,
        namespaces_allowed: frozenset[str],
        source: "SecretsApi",
        timeout_s: float = TIMEOUT_S,
        retrying: ReadRetryPolicy = ORDINARY,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """`timeout_s` bounds a whole read: waiting for its turn, every try, the pauses between them and the body."""
        self._namespaces_allowed = namespaces_allowed
        self._source = source
        self.breaker: Final = breaker or CircuitBreaker()
        """Open while the API server can't be reached: then every read is `SecretUnavailable` at once."""
        self._reads = SecretReader(source, timeout_s=timeout_s, retrying=retrying, breaker=self.breaker)

    @classmethod
    async def in_cluster(
        cls,
        *,
        namespaces_allowed: frozenset[str],
        directory: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
        timeout_s: float = TIMEOUT_S,
        retrying: ReadRetryPolicy = ORDINARY,
        breaker: CircuitBreaker | None = None,
    ) -> "KubernetesSecretProvider":
        """The provider of a pod, by its service account. Raises `ProviderMisconfigured`."""
        source = await SecretsApi.connect(await ApiServerConfig.in_cluster(directory=directory, environ=environ))
        return cls(
            namespaces_allowed=namespaces_allowed,
            source=source,
            timeout_s=timeout_s,
            retrying=retrying,
            breaker=breaker,
        )

    @classmethod
    async def from_kubeconfig(
        cls, path: Path | str, *, namespaces_allowed: frozenset[str], context: str | None = None
    ) -> "KubernetesSecretProvider":
        """A provider outside a cluster. A proxy named in the file is not used. Raises `ProviderMisconfigured`."""
        source = await SecretsApi.connect(await _cluster_of(Path(path), context))
        return cls(namespaces_allowed=namespaces_allowed, source=source)

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """See `SecretProvider.resolve`."""
        return (await self.read(ref)).select(ref.key, tenant=tenant, purpose=purpose)

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Read the Secret that `ref` names, whichever key of it. Raises a `SecretError`."""
        ref.require_namespace(self._namespaces_allowed)
        found = await self._reads.find(ref)
        if isinstance(found, SecretSnapshot):
            return found
        raise found

    async def aclose(self) -> None:
        """Close the connections. Every later read is `SecretUnavailable`."""
        await self._source.aclose()


class _CoreV1(Protocol):
    """The one method of kubernetes_asyncio's `CoreV1Api` that we call."""

    async def read_namespaced_secret(
        self,
        name: str,
        namespace: str,
        *,
        _preload_content: bool,
        _request_timeout: aiohttp.ClientTimeout,
        _headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse: ...


@final
class SecretsApi:
    """The Secrets of one cluster, over one TLS session."""

    __slots__ = ("_api", "_cluster", "_session")

    def __init__(self, *, cluster: ApiServerConfig, api: _CoreV1, session: SecretSession) -> None:
        self._cluster = cluster
        self._api = api
        self._session = session

    @classmethod
    async def connect(cls, cluster: ApiServerConfig) -> "SecretsApi":
        """Make ready; nothing is sent yet."""
        _import_library()
        from kubernetes_asyncio.client import ApiClient, Configuration, CoreV1Api

        configuration = Configuration(host=cluster.url)
        configuration.tls_server_name = cluster.server_name
        client = ApiClient(configuration)
        client.user_agent = "oneprotect-delivery"
        theirs, ours = client.rest_client.pool_manager, SecretSession(cluster.trust)
        client.rest_client.pool_manager = cast("aiohttp.ClientSession", ours)
        await theirs.close()
        return cls(cluster=cluster, api=cast("_CoreV1", CoreV1Api(client)), session=ours)

    async def get(self, ref: SecretRef, *, fresh_credentials: bool) -> ApiServerResponse | ResponseFault:
        """One GET, sent once. Never raises; a fault says nothing of what was raised by others."""
        try:
            authorization = await self._cluster.credentials.authorization(fresh=fresh_credentials)
        except Exception:  # noqa: BLE001 - a file or a plugin, with whatever it may raise
            return ResponseFault.NOT_SENT
        trust = self._cluster.trust
        trust.look()
        trusted = trust.context
        try:
            return await self._sent(ref, authorization)
        except asyncio.CancelledError:
            fault = None
        except Exception as error:  # noqa: BLE001 - whatever it was, there is no answer
            fault = fault_of(error)
        if fault is None:
            del authorization
            raise asyncio.CancelledError  # anew, as the one that was raised keeps frames with a token and half a Secret
        if fault is ResponseFault.UNTRUSTED:
            trust.look_now()
            return fault if trust.context is trusted else ResponseFault.OUTDATED
        return fault

    async def aclose(self) -> None:
        """Close the session."""
        await self._session.close()

    async def _sent(self, ref: SecretRef, authorization: str | None) -> ApiServerResponse:
        response = await self._api.read_namespaced_secret(
            ref.name,
            ref.namespace,
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            _headers={"Authorization": authorization} if authorization else {},
        )
        async with response:
            return await answer_of(response)


@final
class _KubeconfigCredentials(Opaque):
    """The credentials of a kubeconfig; its loader may run a plugin to get them."""

    __slots__ = ("_context", "_header", "_path")

    def __init__(self, path: Path, context: str | None, header: str | None) -> None:
        self._path = path
        self._context = context
        self._header = header

    async def authorization(self, *, fresh: bool) -> str | None:
        """The `Authorization` header. Raises `ProviderMisconfigured`."""
        if fresh:
            self._header = _authorization(await _load(self._path, self._context))
            _forget_files()
        return self._header


async def _cluster_of(path: Path, context: str | None) -> ApiServerConfig:
    configuration = await _load(path, context)
    try:
        if not configuration.verify_ssl:
            raise ProviderMisconfigured("The kubeconfig says insecure-skip-tls-verify, which is refused.")
        trust = CaBundle(
            ca_file=configuration.ssl_ca_cert,
            certificate_file=configuration.cert_file,
            key_file=configuration.key_file,
        )
    finally:
        _forget_files()
    return ApiServerConfig(
        url=str(configuration.host),
        trust=trust,
        credentials=_KubeconfigCredentials(path, context, _authorization(configuration)),
        server_name=configuration.tls_server_name,
    )


def _authorization(configuration: "Configuration") -> str | None:
    header = cast("dict[str, str]", configuration.api_key).get("BearerToken")  # pyright: ignore[reportUnknownMemberType] - it has no types
    return header.strip() if header else None


async def _load(path: Path, context: str | None) -> "Configuration":
    _import_library()
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_kube_config  # pyright: ignore[reportUnknownVariableType] - it has no types

    configuration = Configuration()
    try:
        await load_kube_config(
            config_file=str(path), context=context, client_configuration=configuration, persist_config=False
        )
        loaded = True
    except Exception:  # noqa: BLE001 - a parser's message quotes the file, and a plugin's may be anything
        loaded = False
    if not loaded:
        raise ProviderMisconfigured("The kubeconfig, or the context in it, could not be loaded.")
    return configuration


def _forget_files() -> None:
    """Delete the files into which the library has written a kubeconfig's inline certificates and keys.

    It would do so when the process ends, but not when that is killed; and it keeps their content in memory till then.
    """
    from kubernetes_asyncio.config import kube_config

    kube_config._cleanup_temp_files()  # pyright: ignore[reportPrivateUsage] - there is no public way


def _import_library() -> None:
    """Import what is used of the library here, and silence it.

    Its packages import every kind of object and every API. So they are entered without that, and `client` is given the
    names that we and the loader of kubeconfigs look for in it.
    """
    client = "kubernetes_asyncio.client"
    register_lazy_packages("kubernetes_asyncio", client, f"{client}.api", f"{client}.models")
    load, names = importlib.import_module, vars(sys.modules[client])
    load(f"{client}.rest")  # before `api_client`, which looks for it in `client`
    names["Configuration"] = load(f"{client}.configuration").Configuration
    names["ApiClient"] = load(f"{client}.api_client").ApiClient
    names["CoreV1Api"] = load(f"{client}.api.core_v1_api").CoreV1Api
    load("kubernetes_asyncio.config")
    _silence()


def _silence() -> None:
    """Drop whatever kubernetes_asyncio logs, at any level: a filter outlives every later change to the levels."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "kubernetes_asyncio":
            logging.getLogger(name).addFilter(_nothing)  # a filter that is there already is not added again


def _nothing(_: logging.LogRecord) -> bool:
    return False
