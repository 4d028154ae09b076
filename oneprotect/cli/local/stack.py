"""A complete installation on one machine: nats-server, a consumer, the API, a receiver, and a sample tenant."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from messaging.admin import topology
from oneprotect.api.auth.token_format import IssuedToken
from oneprotect.bootstrap.resources import JetStream, open_jetstream, stream_limits
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.receiver import ALWAYS_OK, DevReceiver, ScriptedAnswers
from oneprotect.dev.sample_secrets import KEY, write_sample_secrets
from oneprotect.settings.settings import Settings
from schemas.roles import Role, TokenSpec

TENANT: Final = "acme"
NAMESPACE: Final = "oneprotect-dev"

HOST: Final = "127.0.0.1"
API_PORT: Final = 8080
TOKEN_NAME: Final = "oneprotect dev"

_START_TIMEOUT_S: Final = 30
_STOP_TIMEOUT_S: Final = 30


class SampleDestination(msgspec.Struct, frozen=True, kw_only=True):
    """A destination of the sample tenant, and the answers of its receiver. `shows` describes its behaviour."""

    name: str
    shows: str
    answers: ScriptedAnswers = ALWAYS_OK
    has_secret: bool = True
    retry_schedule_s: tuple[float, ...] | None = None

    @property
    def path(self) -> str:
        """Path at the receiver."""
        return f"/{TENANT}/{self.name}"


ORDERS: Final = SampleDestination(name="orders", shows="delivered at once")
FLAKY: Final = SampleDestination(
    name="flaky",
    shows="503 twice, then delivered",
    answers=ScriptedAnswers(failures=2, status=503),
    retry_schedule_s=(0.3, 0.3, 1, 5),
)
UNSIGNED: Final = SampleDestination(name="no-secret", shows="no Secret, nothing is sent", has_secret=False)
SAMPLES: Final = (ORDERS, FLAKY, UNSIGNED)


class DevStack(msgspec.Struct, frozen=True):
    """The parts of a running local installation."""

    jetstream: JetStream
    receiver: DevReceiver
    settings: Settings
    consumer: asyncio.subprocess.Process
    api: "ServedApi | None" = None


class ServedApi(msgspec.Struct, frozen=True):
    """The HTTP API process, and a token with all roles for the sample tenant."""

    url: str
    token: IssuedToken
    process: asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def start_stack(directory: Path, *, nats_port: int | None, with_api: bool = False) -> AsyncGenerator[DevStack]:
    """Start all parts on loopback, and stop them at the end of the context.

    Args:
        nats_port: Port of nats-server, or None for a free one.
    """
    async with EmbeddedNats(directory / "nats", port=nats_port) as server, DevReceiver() as receiver:
        environ = _environ(directory, server.url)
        settings = Settings.load(environ)
        async with open_jetstream(settings, name="oneprotect-dev") as jetstream:
            await topology.apply(
                jetstream.connection,
                replicas=settings.nats.replicas,
                work_per_destination=settings.nats.work_per_destination,
                ack_wait_s=settings.delivery.ack_wait_s,
                limits=stream_limits(settings),
            )
            await set_up_tenant(jetstream, receiver, directory / "secrets")
            async with contextlib.AsyncExitStack() as running:
                consumer = await running.enter_async_context(_start_process(environ, "consumer"))
                api = await running.enter_async_context(_start_api(environ, jetstream)) if with_api else None
                yield DevStack(jetstream, receiver, settings, consumer, api)


async def set_up_tenant(jetstream: JetStream, receiver: DevReceiver, secrets_directory: Path) -> None:
    """Create the sample tenant: for each sample a Secret, a credential, a destination, and a path of the receiver."""
    signed = [sample.name for sample in SAMPLES if sample.has_secret]
    secrets = write_sample_secrets(secrets_directory, namespace=NAMESPACE, tenant=TENANT, names=signed)
    for sample in SAMPLES:
        if sample.has_secret:
            receiver.route(sample.path, secrets[sample.name], sample.answers)
        await jetstream.configuration.set_credential(
            TENANT, sample.name, {"secret_ref": f"k8s://{NAMESPACE}/{sample.name}/{KEY}"}, by="dev"
        )
        destination: dict[str, object] = {
            "url": receiver.url(sample.path),
            "credential": sample.name,
            "description": sample.shows,
        }
        if sample.retry_schedule_s:
            destination["retry_schedule_s"] = sample.retry_schedule_s
        await jetstream.configuration.set_destination(TENANT, sample.name, destination, by="dev")


def _environ(directory: Path, nats_url: str) -> dict[str, str]:
    """Return the developer's environment, with the settings of a self-contained installation."""
    return {
        "ONEPROTECT_LOG_LEVEL": "warning",
        "ONEPROTECT_LOG_FORMAT": "console",
        **os.environ,
        "ONEPROTECT_NATS_URL": nats_url,
        "ONEPROTECT_SECRET_PROVIDER": "local",
        "ONEPROTECT_LOCAL_SECRETS_DIR": str((directory / "secrets").resolve()),
        "ONEPROTECT_SECRET_NAMESPACE": NAMESPACE,
        "ONEPROTECT_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
        "ONEPROTECT_EGRESS_ALLOW_HTTP": "true",
        "ONEPROTECT_EGRESS_PORTS": "443,1024-65535",
    }


@contextlib.asynccontextmanager
async def _start_api(environ: Mapping[str, str], jetstream: JetStream) -> AsyncGenerator[ServedApi]:
    """Start the API with a new token, and revoke the tokens of earlier runs."""
    port = free_port(API_PORT)
    for view in await jetstream.tokens.list(TENANT):
        if view.name == TOKEN_NAME:
            await jetstream.tokens.delete(view.id, by="dev")
    spec = TokenSpec(tenant=TENANT, roles=tuple(Role), name=TOKEN_NAME)
    _, token = await jetstream.tokens.create(spec, by="dev")
    own = {name: value for name, value in environ.items() if name != "ONEPROTECT_OPS_PORT"}  # in use by the consumer
    own |= {"ONEPROTECT_API_HOST": HOST, "ONEPROTECT_API_PORT": str(port)}
    async with _start_process(own, "api") as process:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while process.returncode is None and not await _is_listening(port):  # noqa: ASYNC110 - a listening port sends no event
                await asyncio.sleep(0.05)
        yield ServedApi(f"http://{HOST}:{port}", token, process)


async def _is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def free_port(preferred: int) -> int:
    """Return `preferred` if it is free on loopback, else any free port."""
    if is_port_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int) -> bool:
    """Return whether nothing listens on the port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextlib.asynccontextmanager
async def _start_process(environ: Mapping[str, str], command: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `oneprotect COMMAND` as a process, and stop it with SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "oneprotect", command, env=dict(environ), start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
