"""Cluster with one Secret, whose value and bearer token are canaries."""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from provider.errors import SecretError
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import ReadRetryPolicy
from provider.provider import SecretProvider
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from schemas.ids import Purpose
from tests.kubernetes.apiserver import USER, ApiServer
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import EXPIRES_AT, Manifest, manifest
from tests.leak.support.threaded_doubles import run_in_thread
from tests.support.leaks import Canary, Search

REF = SecretRef.parse("k8s://webhooks/acme-signing/signing")


class Cluster:
    """The server's double with `acme`'s Secret, in the middle of a rollover, and the canaries in it."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.secret, self.previous = Canary.secret("current secret"), Canary.secret("previous secret")
        self.token = Canary.word("bearer token")
        self.search = Search(self.secret, self.previous, self.token)
        server.users = {self.token.reveal(): USER}
        server.put(self.document())
        self.account = server.service_account(directory / "account", token=self.token.reveal())
        self._directory = directory
        self._sent = threading.Event()

    def document(self) -> Manifest:
        """The Secret."""
        return manifest(
            data={"signing": self.secret.reveal_bytes(), "signing.previous": self.previous.reveal_bytes()},
            annotations={
                EXPIRES_AT: (datetime.now(UTC) + timedelta(days=1)).isoformat(),
                "kubectl.kubernetes.io/last-applied-configuration": self.secret.reveal(),
            },
        )

    async def provider(self, *, timeout_s: float = 5.0) -> KubernetesSecretProvider:
        """A provider in a pod of the cluster. It does not pause between its tries."""
        return KubernetesSecretProvider(
            namespaces_allowed=frozenset({"webhooks"}),
            server=await ApiServerConfig.in_cluster(directory=self.account, environ=self.server.environ),
            timeout_s=timeout_s,
            retry_policy=ReadRetryPolicy(jitter=lambda low, _: low),
        )

    def send_without_end(self) -> None:
        """Respond with the Secret from now on, and never end the response."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(json.dumps(self.document()).encode())
            self._sent.set()
            await self.server.gate.wait()
            return response

        self.server.every_answer = answer

    async def until_sent(self) -> None:
        """Wait until such a response has been sent and received by this loop."""
        assert await asyncio.to_thread(self._sent.wait, 10)
        for _ in range(20):  # rounds of the loop: read, decrypt, parse, and wake the reader
            await asyncio.sleep(0)

    def kubeconfig(self, *identity: Path) -> Path:
        """A kubeconfig with the token in it, and with a client's certificate and its key if they are given."""
        user = {"token": self.token.reveal()}
        for name, path in zip(("client-certificate-data", "client-key-data"), identity, strict=False):
            user[name] = base64.b64encode(path.read_bytes()).decode()
        ca = self.server.authority.ca_file.read_bytes()
        return written(self._directory / "kubeconfig", kubeconfig(self.server.url, ca, user))


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncGenerator[Cluster]:
    """Run a cluster until the block ends."""
    async with run_in_thread(lambda: ApiServer.running(directory)) as server:
        yield Cluster(server, directory)


async def resolved(provider: SecretProvider, ref: SecretRef = REF, *, tenant: str = "acme") -> SigningSecret:
    """Resolve, as a delivery does."""
    return await provider.resolve(ref, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING)


async def refusal(provider: SecretProvider, ref: SecretRef = REF, *, tenant: str = "acme") -> SecretError:
    """Resolve, and return the error that this must raise."""
    try:
        await resolved(provider, ref, tenant=tenant)
    except SecretError as error:
        return error
    raise AssertionError("there was no error")
