"""A double of the Kubernetes API server, over TLS: named Secrets, tokens, RBAC by name, and faults on demand."""

import asyncio
import gzip
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

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

USER = "system:serviceaccount:oneprotect:consumer"


class ApiServer:
    """Answers GETs of named Secrets as the real one does. Any other request is recorded and refused.

    A token is good while it is in `users`; a user may get a Secret while `(user, namespace, name)` is in `grants`.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "pki")
        self.users = {"token-1": USER}
        self.grants: set[tuple[str, str, str]] = set()
        self.secrets: dict[tuple[str, str], Manifest] = {}
        self.requests: list[web.Request] = []
        self.next_answers: deque[Answer] = deque()
        self.every_answer: Answer | None = None
        self.gate = asyncio.Event()
        self.in_flight = 0
        self.most_in_flight = 0
        self.arrived = asyncio.Condition()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path, *, host_in_certificate: str = "127.0.0.1") -> AsyncGenerator["ApiServer"]:
        """Listen on a free port of the loopback until the block ends."""
        server = cls(directory)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        context = server.authority.server_context(host_in_certificate)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
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
        """Create or replace a Secret, and let the user get it."""
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        self.secrets[namespace, name] = document
        self.grants.add((USER, namespace, name))

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
        """What the real server would say."""
        user = self.users.get(request.headers.get("Authorization", "").removeprefix("Bearer ")) or _user_by_certificate(
            request
        )
        if user is None:
            return failure(401, "Unauthorized", "Unauthorized")
        match request.path.split("/"):
            case ["", "api", "v1", "namespaces", namespace, "secrets", name] if request.method == "GET" and name:
                return self._get(user, namespace, name)
            case _:
                return failure(403, "Forbidden", f'User "{user}" cannot do that')

    def _get(self, user: str, namespace: str, name: str) -> web.Response:
        details = {"name": name, "kind": "secrets"}
        if (user, namespace, name) not in self.grants:
            message = (
                f'secrets "{name}" is forbidden: User "{user}" cannot get resource "secrets" in API group ""'
                f' in the namespace "{namespace}"'
            )
            return failure(403, "Forbidden", message, details)
        if (namespace, name) not in self.secrets:
            return failure(404, "NotFound", f'secrets "{name}" not found', details)
        return web.json_response(self.secrets[namespace, name])


def _user_by_certificate(request: web.Request) -> str | None:
    """The common name of the client's certificate, as the real server takes it."""
    assert request.transport is not None
    tls = cast("ssl.SSLObject", request.transport.get_extra_info("ssl_object"))
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        return None
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value)


def failure(code: int, reason: str, message: str, details: dict[str, str] | None = None) -> web.Response:
    """A `Status` object, field for field."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        **({"details": details} if details else {}),
        "code": code,
    }
    return web.json_response(body, status=code)


def saying(status: int, text: str = "", content_type: str = "text/plain", **headers: str) -> Answer:
    """Answer any text."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status,
            text=text,
            content_type=content_type,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return answer


def too_many_requests() -> Answer:
    """What the server's fairness says: text, and no JSON."""
    return saying(429, "Too many requests, please try again later.\n", Retry_After="1")


def cut_json(document: Manifest) -> Answer:
    """Answer the first half of the JSON as if it were all."""
    text = json.dumps(document)
    return saying(200, text[: len(text) // 2], "application/json")


def cut_body(document: Manifest) -> Answer:
    """Announce the whole body, send half, and hang up."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = json.dumps(document).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def oversized(document: Manifest, size: int) -> Answer:
    """Answer valid JSON of a valid Secret, with `size` spaces before it, in chunks."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(size // 10_000):
            await response.write(b" " * 10_000)
        await response.write(json.dumps(document).encode())
        return response

    return answer


def gzipped(document: Manifest) -> Answer:
    """Answer what nobody asked for: a compressed body."""

    async def answer(_: web.Request) -> web.StreamResponse:
        body = gzip.compress(json.dumps(document).encode())
        return web.Response(body=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})

    return answer


def stalled(server: ApiServer) -> Answer:
    """Answer rightly, but not before the gate opens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await server.gate.wait()
        return await server.answer(request)

    return answer


def hanging_up() -> Answer:
    """Reset the connection instead of answering."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer
