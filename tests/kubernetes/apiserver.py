"""A double of the Kubernetes API server, over TLS: RBAC by token, faithful answers, and faults on demand.

`test_conformance.py` holds it against what a real server says.
"""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.kubernetes.certificates import Authority
from tests.kubernetes.manifests import Manifest
from tests.kubernetes.objects import Objects
from tests.kubernetes.rbac import Attributes, reason, subject_of
from tests.kubernetes.statuses import answered, failure, forbidden, unauthorized

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

USER = "system:serviceaccount:oneprotect:consumer"
ADMIN = "kubernetes-admin"


class ApiServer:
    """Answers as the real one does, and records every request.

    A token is good while it is in `users`; a user may do what a Role allows that is bound to it, and `ADMIN` anything.
    """

    def __init__(self, directory: Path, host: str) -> None:
        self.authority = Authority(directory / "pki")
        self.users = {"token-1": USER, "token-of-admin": ADMIN}
        self.objects = Objects()
        self.requests: list[web.Request] = []
        self.next_answers: deque[Answer] = deque()
        self.every_answer: Answer | None = None
        self.gate = asyncio.Event()
        self.in_flight = 0
        self.most_in_flight = 0
        self.arrived = asyncio.Condition()
        self.port = 0
        self._host = host
        self._tls = self.authority.server_context(host)

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path, *, host_in_certificate: str = "127.0.0.1") -> AsyncGenerator["ApiServer"]:
        """Listen on a free port of the loopback until the block ends."""
        server = cls(directory, host_in_certificate)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server._tls).start()
        server.port = runner.addresses[0][1]
        try:
            yield server
        finally:
            server.gate.set()
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables that a pod finds."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def service_account(self, directory: Path, *, token: str = "token-1") -> Path:
        """The directory that a pod finds."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "token").write_text(token)
        (directory / "ca.crt").write_bytes(self.authority.ca_file.read_bytes())
        return directory

    def put(self, document: Manifest) -> None:
        """Keep a Secret exactly as it is given, and let the user get it."""
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        self.objects["secrets", namespace, name] = document
        self.grant(namespace, name)

    def remove(self, namespace: str, name: str) -> None:
        """Delete a Secret, and leave the right to get it."""
        del self.objects["secrets", namespace, name]

    def grant(self, namespace: str, *names: str, user: str = USER, verbs: tuple[str, ...] = ("get",)) -> None:
        """Bind one more Role to a user. Without names it is for all Secrets, as in a real one."""
        rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs), "resourceNames": list(names)}
        metadata = {"namespace": namespace, "name": f"role-{len(self.objects)}"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]}
        self.objects.store("roles", {"metadata": metadata, "rules": [rule]})
        self.objects.store("rolebindings", {"metadata": metadata, "subjects": [subject_of(user)], "roleRef": role})

    def revoke_all(self) -> None:
        """Take every right away."""
        for place in [place for place in self.objects if place[0] == "rolebindings"]:
            del self.objects[place]

    def present(self, authority: Authority, *, expired: bool = False) -> None:
        """From the next handshake on, show another certificate."""
        self._tls.load_cert_chain(*authority.issue(self._host, expired=expired))

    async def until_in_flight(self, count: int) -> None:
        """Wait until so many requests are here at the same time."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: self.in_flight >= count)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        async with self.arrived:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.arrived.notify_all()
        try:
            if self.next_answers:
                return await self.next_answers.popleft()(request)
            return await (self.every_answer or self.answer)(request)
        finally:
            self.in_flight -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What the real server would say: who are you, may you, and then what was asked for."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        user = self.users.get(token) or self.objects.tokens.get(token) or _user_by_certificate(request)
        if user is None:
            return answered(unauthorized(), 401)
        asked = Attributes.of(request)
        if asked is None:
            message = f'forbidden: User "{user}" cannot get path "{request.path}"'
            return failure(403, "Forbidden", message, {})
        if not self._may(user, asked):
            refusal = forbidden(
                user,
                asked.verb,
                asked.resource,
                group=asked.group,
                namespace=asked.namespace,
                name=asked.name,
                subresource=asked.subresource,
            )
            return answered(refusal, 403)
        body = json.loads(await request.read() or b"{}")
        return self.objects.perform(asked, user, body)

    def _may(self, user: str, asked: Attributes) -> bool:
        if user == ADMIN or asked.resource == "selfsubjectaccessreviews":
            return True
        return reason(self.objects, user, asked) is not None


def _user_by_certificate(request: web.Request) -> str | None:
    """The common name of the client's certificate, as the real server takes it."""
    assert request.transport is not None
    tls = cast("ssl.SSLObject", request.transport.get_extra_info("ssl_object"))
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        return None
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value)
