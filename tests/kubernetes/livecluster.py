"""Namespace in a cluster, real or double, set up and removed with raw requests."""

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import load_kube_config  # pyright: ignore[reportUnknownVariableType] - it has no types
from msgspec import Struct

from provider.kubernetes.tls import create_client_context
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import Manifest
from tests.support.waiting import until

ACCOUNT = "consumer"

_RBAC = "rbac.authorization.k8s.io"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_GIVEN_BY_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "managedFields")


class Reply(Struct, frozen=True):
    """A received response."""

    status: int
    content_type: str
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body, which is JSON."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return cast("dict[str, Any]", found)


class LiveCluster:
    """Has a namespace with a service account, which may get the Secrets that are granted to it by name."""

    def __init__(self, http: aiohttp.ClientSession, configuration: Configuration, namespace: str) -> None:
        self.namespace = namespace
        self.user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        self.token = ""
        self._http = http
        self._url = str(configuration.host).rstrip("/")
        self._ca = Path(str(configuration.ssl_ca_cert)).read_bytes()
        self._admin = cast("dict[str, str]", configuration.api_key).get("BearerToken")  # pyright: ignore[reportUnknownMemberType] - it has no types
        self._server_name: str | None = configuration.tls_server_name

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncGenerator["LiveCluster"]:
        """Create the namespace and its objects as the kubeconfig's user, and remove them at the end."""
        configuration = Configuration()
        await load_kube_config(config_file=str(path), client_configuration=configuration, persist_config=False)
        tls = create_client_context(
            ca_file=configuration.ssl_ca_cert,
            certificate_file=configuration.cert_file,
            key_file=configuration.key_file,
        )
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
            cluster = cls(http, configuration, f"oneprotect-test-{secrets.token_hex(4)}")
            try:
                await cluster._set_up()
                yield cluster
            finally:
                await cluster.request("DELETE", f"/api/v1/namespaces/{cluster.namespace}")

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str | None = None
    ) -> Reply:
        """Send anything, with `token` or else as the kubeconfig's user."""
        bearer = token or self._admin
        async with self._http.request(
            method,
            f"{self._url}{path}",
            json=body,
            headers={"Authorization": bearer if bearer.startswith("Bearer ") else f"Bearer {bearer}"} if bearer else {},
            server_hostname=self._server_name,
        ) as response:
            return Reply(response.status, response.content_type, await response.read())

    def path(self, name: str = "", *, namespace: str | None = None) -> str:
        """The path of a Secret, or of all of them."""
        return f"/api/v1/namespaces/{namespace or self.namespace}/secrets" + (f"/{name}" if name else "")

    async def put(self, document: Manifest) -> str:
        """Create or replace a Secret in the test namespace, and return its version."""
        metadata = {key: value for key, value in document["metadata"].items() if key not in _GIVEN_BY_THE_SERVER}
        metadata["namespace"] = self.namespace
        await self.request("DELETE", self.path(metadata["name"]))
        made = await self._create(self.path(), {**document, "metadata": metadata})
        return f"{made['metadata']['uid']}/{made['metadata']['resourceVersion']}"

    async def grant(self, *names: str, verbs: tuple[str, ...] = ("get",)) -> None:
        """Grant the service account exactly these verbs on these Secrets."""
        rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs), "resourceNames": list(names)}
        metadata = {"name": ACCOUNT, "namespace": self.namespace}
        body = {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}
        assert (await self.request("PUT", f"{self._rbac('roles')}/{ACCOUNT}", body)).status == 200
        for verb in verbs:
            for name in names or ("any",):
                await until(partial(self.may, verb, name))

    async def revoke(self, name: str) -> None:
        """Remove every permission, and wait until the server applies it."""
        assert (await self.request("DELETE", f"{self._rbac('rolebindings')}/{ACCOUNT}")).status == 200

        async def revoked() -> bool:
            return not await self.may("get", name)

        await until(revoked)

    async def may(self, verb: str, name: str = "") -> bool:
        """Return whether the server allows the service account this operation on this Secret."""
        return bool((await self.review(verb, name)).document["status"]["allowed"])

    async def review(self, verb: str, name: str = "") -> Reply:
        """Return the server's whole access review."""
        attributes = {"namespace": self.namespace, "verb": verb, "resource": "secrets", "name": name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return await self.request("POST", _REVIEWS, body, token=self.token)

    def consumer_kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig of the service account."""
        named = {"tls-server-name": self._server_name} if self._server_name else {}
        return written(
            directory / "consumer.kubeconfig", kubeconfig(self._url, self._ca, {"token": self.token}, **named)
        )

    async def _set_up(self) -> None:
        meta = {"name": ACCOUNT, "namespace": self.namespace}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await self._create("/api/v1/namespaces", namespace)
        accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        await self._create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["none"]}
        role = {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": meta, "rules": [rule]}
        await self._create(self._rbac("roles"), role)
        binding = {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "subjects": [{"kind": "ServiceAccount", **meta}],
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": ACCOUNT},
        }
        await self._create(self._rbac("rolebindings"), binding)
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        self.token = (await self._create(f"{accounts}/{ACCOUNT}/token", asked))["status"]["token"]

    async def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self.request("POST", path, body)
        assert reply.status == 201, reply.body
        return reply.document

    def _rbac(self, resource: str) -> str:
        return f"/apis/{_RBAC}/v1/namespaces/{self.namespace}/{resource}"
