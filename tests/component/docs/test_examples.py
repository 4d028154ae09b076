"""The examples in every language that this machine has. Python and the shell are always present."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import pytest
from aiohttp import web

from oneprotect.dev.nats_server import free_port
from schemas import streams
from schemas.roles import Role
from tests.support.api import running
from tests.support.secured import Keys, ShippedServer
from tests.support.site import TENANT, Site
from tests.support.waiting import until

EXAMPLES: Final = Path(__file__).parents[3] / "examples"
LANGUAGES: Final = [
    language
    for language, program in {"python": sys.executable, "curl": "sh", "javascript": "node", "go": "go"}.items()
    if shutil.which(program)
]

ID, TIME = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
BODY = '{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
NEW = "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44="
TAMPERED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="

GENUINE = {
    "official": (BODY, SECRET, V1),
    "empty body": ("", SECRET, "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A="),
    "beyond ASCII": ('{"n":"Zoë ☃"}', SECRET, "v1,Oyrrljv3Vb2xCfd8mXX4m0zOm5JFGUzVNTkaYXHOz9M="),
    "rollover, old secret here": (BODY, SECRET, f"{NEW} {V1}"),
    "rollover, new secret here": (BODY, NEW_SECRET, f"{NEW} {V1}"),
    "two secrets here": (BODY, f"{NEW_SECRET} {SECRET}", V1),
    "unknown version beside it": (BODY, SECRET, f"v9,AAAA {V1}"),
}
FALSE = {
    "tampered signature": (BODY, SECRET, TAMPERED),
    "tampered body": (BODY + " ", SECRET, V1),
    "another secret": (BODY, NEW_SECRET, V1),
    "another scheme": (BODY, SECRET, V1A),
    "unknown version": (BODY, SECRET, V1.replace("v1", "v2")),
    "no signature": (BODY, SECRET, ""),
    "not base64": (BODY, SECRET, "v1,@@@"),
    "cut": (BODY, SECRET, V1[:-6]),
}

Program = Callable[[str, str], Sequence[str]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Return the command that runs an example, by language and name."""
    built = tmp_path_factory.mktemp("built")

    def command(language: str, name: str) -> Sequence[str]:
        if language == "go":
            if not (built / name).exists():
                directory = EXAMPLES / "go" / ("publish_nats" if name == "publish_nats" else ".")
                package = "." if name == "publish_nats" else f"./{name}"
                subprocess.run(["go", "build", "-o", built / name, package], cwd=directory, check=True)
            return [str(built / name)]
        directory = EXAMPLES / language
        if (language, name) == ("javascript", "publish_nats"):
            directory = built / "javascript"  # with its packages
            if not directory.exists():
                shutil.copytree(EXAMPLES / "javascript", directory)
                install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
                subprocess.run(install, cwd=directory, check=True)
        runner, ending = {"python": (sys.executable, "py"), "curl": ("sh", "sh"), "javascript": ("node", "mjs")}[
            language
        ]
        name = "publish_http" if (language, name) == ("python", "publish") else name
        return [runner, str(directory / f"{name}.{ending}")]

    return command


def _verified(command: Sequence[str], body: str, secret: str, signatures: str, *, now: int = int(TIME)) -> bool:
    ran = subprocess.run(
        [*command, ID, TIME, signatures],
        input=body.encode(),
        env=os.environ | {"WEBHOOK_SECRET": secret, "NOW": str(now)},
        capture_output=True,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr.decode()
    assert (ran.stdout == b"genuine\n") == (ran.returncode == 0)
    return ran.returncode == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", LANGUAGES)
def test_genuine_webhooks_are_verified(language: str, program: Program) -> None:
    """Each program accepts the vectors of the specification, both keys of a rotation, and empty or non-ASCII bodies."""
    command = program(language, "verify")

    assert {case: _verified(command, *given) for case, given in GENUINE.items()} == dict.fromkeys(GENUINE, True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", LANGUAGES)
def test_forged_webhooks_are_refused(language: str, program: Program) -> None:
    """Each program refuses a changed body, a wrong signature, and a timestamp beyond five minutes."""
    command = program(language, "verify")

    assert {case: _verified(command, *given) for case, given in FALSE.items()} == dict.fromkeys(FALSE, False)
    away = {
        seconds: _verified(command, BODY, SECRET, V1, now=int(TIME) + seconds) for seconds in (-301, -299, 299, 301)
    }
    assert away == {-301: False, -299: True, 299: True, 301: False}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "curl"])
def test_the_second_scheme_is_verified(language: str, program: Program) -> None:
    """Each program accepts a genuine Ed25519 signature (v1a), and refuses a changed one."""
    command = program(language, "verify")

    assert _verified(command, BODY, PUBLIC, V1A)
    assert _verified(command, BODY, PUBLIC, f"{V1} {V1A}")
    assert not _verified(command, BODY + " ", PUBLIC, V1A)
    assert not _verified(command, BODY, PUBLIC, V1A[:-8] + "AAAAAA==")
    assert not _verified(command, BODY, PUBLIC, V1)


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_the_receiver_accepts_genuine_webhooks_only() -> None:
    """The example receiver answers 204 to a genuine webhook and 401 to a forged one, and prints the verdict."""
    port, signed_at = free_port(), str(int(time.time()))
    signature = hmac.digest(base64.b64decode(SECRET[6:]), f"{ID}.{signed_at}.{BODY}".encode(), hashlib.sha256)
    headers = {"webhook-id": ID, "webhook-timestamp": signed_at}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / "python" / "receiver.py", str(port)),
        env=os.environ | {"WEBHOOK_SECRET": SECRET},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await until(lambda: _is_listening(port), 20)
        async with aiohttp.ClientSession() as session:
            statuses: list[int] = []
            for text in (f"v1,{base64.b64encode(signature).decode()}", TAMPERED):
                url = f"http://127.0.0.1:{port}/hook"
                async with session.post(url, data=BODY, headers=headers | {"webhook-signature": text}) as answer:
                    statuses.append(answer.status)
        lines = [(await process.stdout.readline()).decode() for _ in statuses]
    finally:
        process.terminate()
        await process.wait()

    assert statuses == [204, 401]
    assert lines == [f"{ID} verified {BODY}\n", f"{ID} refused (no signature matches) {BODY}\n"]


async def _published(
    command: Sequence[str], keys: Keys, url: str, delivery: str, *, tenant: str = TENANT, destination: str = "orders"
) -> tuple[int, str, str]:
    access = keys.settings(f"producer_{TENANT}", url)
    process = await asyncio.create_subprocess_exec(
        *(*command, tenant, destination, "invoice.paid", delivery),
        env=os.environ
        | {
            "NATS_URL": url.replace("127.0.0.1", "localhost"),
            "NATS_CA_FILE": access["ONEPROTECT_NATS_CA_FILE"],
            "NATS_NKEY_FILE": access["ONEPROTECT_NATS_NKEY_FILE"],
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(b'{"total": 42, "to": "Zo\xc3\xab"}'), 60)
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), error.decode()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "curl"])
async def test_a_delivery_is_requested_over_nats(language: str, program: Program, tmp_path: Path) -> None:
    """From an account of its tenant, each program waits for the API, repeats safely, and reports a refusal."""
    command = await asyncio.to_thread(program, language, "publish_nats")
    keys = Keys(tmp_path / "keys", [TENANT])
    async with ShippedServer(tmp_path / "nats", keys) as server:
        operator, api = (
            {name.removeprefix("ONEPROTECT_").lower(): value for name, value in keys.settings(role, server.url).items()}
            for role in ("operator", "api")
        )
        async with Site(tmp_path, server, work_per_destination="1", **operator) as site:
            await site.destination("orders", "http://127.0.0.1:9999/")
            early = asyncio.create_task(_published(command, keys, server.url, "d-1"))
            async with running(site, ready=True, **api):
                accepted = [await early]
                accepted += [await _published(command, keys, server.url, name) for name in ("d-1", "d-2")]
                unknown = await _published(command, keys, server.url, "d-3", destination="unknown")
                foreign = await _published(command, keys, server.url, "d-4", tenant="globex")
            work, overflow = [await site.records(stream) for stream in (streams.WORK, streams.OVERFLOW)]

    assert [(code, out) for code, out, _ in accepted] == [(0, "d-1"), (0, "d-1"), (0, "d-2")], accepted
    stored = [msgspec.json.decode(record.data) for record in [*work, *overflow]]
    assert [(one["id"], one["data"]["payload"]) for one in stored] == [
        (name, {"total": 42, "to": "Zoë"}) for name in ("d-1", "d-2")
    ]
    assert (len(work), len(overflow)) == (1, 1)
    assert unknown[0] == 1
    assert '422 {"type":"urn:oneprotect:problem:invalid"' in unknown[2]
    assert foreign[0] == 1
    assert "permissions violation" in foreign[2].lower()


class Front:
    """A proxy before the API: it loses the first answer to an id, and answers the second request with 503."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.requests: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Forward the request, and lose or return the answer."""
        delivery = request.headers["idempotency-key"]
        self.requests.append(delivery)
        times = self.requests.count(delivery)
        if times == 2:
            return web.Response(status=503)
        headers = {name: request.headers[name] for name in ("authorization", "content-type", "idempotency-key")}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._url + request.path, data=await request.read(), headers=headers) as answer,
        ):
            status, body = answer.status, await answer.read()
        if times == 1 and status == 202:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=status, body=body, content_type=answer.content_type)


@contextlib.asynccontextmanager
async def _front(url: str) -> AsyncGenerator[tuple[Front, str]]:
    front = Front(url)
    app = web.Application()
    app.router.add_post("/{path:.*}", front.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    try:
        yield front, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _asked(command: Sequence[str], url: str, token: str, delivery: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(*command, TENANT, "orders", "invoice.paid", delivery),
        env=os.environ | {"DELIVERY_URL": url, "DELIVERY_TOKEN": token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(b'{"total": 42, "to": "Zo\xc3\xab"}'), 60)
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), error.decode()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_delivery_is_requested_over_http(language: str, program: Program, site: Site) -> None:
    """A lost answer and an error lead to repeated requests, and the delivery is stored once."""
    command = await asyncio.to_thread(program, language, "publish")
    await site.destination("orders", "http://127.0.0.1:9999/")
    async with running(site) as api, _front(api.url) as (front, url):
        asked = await _asked(command, url, await api.token(Role.PRODUCER), "d-1")
        refused = await _asked(command, url, "op_wrong", "d-2")
        stored = [msgspec.json.decode(record.data) for record in await site.records(streams.WORK)]

    assert asked[:2] == (0, "d-1"), asked[2]
    assert front.requests == ["d-1"] * 3 + ["d-2"]
    assert [(one["id"], one["data"]["payload"]) for one in stored] == [("d-1", {"total": 42, "to": "Zoë"})]
    assert refused[0] == 1
    assert "401" in refused[2]
