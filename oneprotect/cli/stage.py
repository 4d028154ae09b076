"""The whole product on one machine: a nats-server, a consumer process, a receiver, and a sample tenant."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.receiver import ALWAYS_OK, Answers, Receiver
from oneprotect.dev.sample import KEY, write_sample_secrets
from oneprotect.jetstream import topology
from oneprotect.settings import Settings
from oneprotect.wiring import JetStream, archive_of, open_jetstream

TENANT: Final = "acme"
NAMESPACE: Final = "oneprotect-dev"

_STOP_TIMEOUT_S: Final = 30


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A destination of the sample tenant: what it shows, and how its receiver answers."""

    name: str
    shows: str
    answers: Answers = ALWAYS_OK
    has_secret: bool = True
    retry_schedule_s: tuple[float, ...] | None = None

    @property
    def path(self) -> str:
        """Where the receiver listens for it."""
        return f"/{TENANT}/{self.name}"


ORDERS: Final = Sample(name="orders", shows="works")
FLAKY: Final = Sample(
    name="flaky",
    shows="503 twice, then works",
    answers=Answers(failures=2, status=503),
    retry_schedule_s=(0.3, 0.3, 1, 5),
)
UNSIGNED: Final = Sample(name="no-secret", shows="no Secret: nothing sent", has_secret=False)
SAMPLES: Final = (ORDERS, FLAKY, UNSIGNED)


class Stage(msgspec.Struct, frozen=True):
    """What `dev` has set up."""

    jetstream: JetStream
    receiver: Receiver
    settings: Settings
    consumer: asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def stage(directory: Path, *, nats_port: int | None) -> AsyncGenerator[Stage]:
    """A nats-server, the receiver, the sample tenant, and a consumer process, all on loopback."""
    async with EmbeddedNats(directory / "nats", port=nats_port) as server, Receiver() as receiver:
        environ = _environ(directory, server.url)
        settings = Settings.load(environ)
        async with open_jetstream(settings, name="oneprotect-dev") as jetstream:
            await topology.apply(
                jetstream.connection,
                replicas=settings.nats.replicas,
                work_per_destination=settings.nats.work_per_destination,
                ack_wait_s=settings.delivery.ack_wait_s,
                archive=archive_of(settings),
            )
            await set_up_tenant(jetstream, receiver, directory / "secrets")
            async with _consumer_process(environ) as consumer:
                yield Stage(jetstream, receiver, settings, consumer)


async def set_up_tenant(jetstream: JetStream, receiver: Receiver, secrets_directory: Path) -> None:
    """The sample tenant: its Secrets, a credential and a destination for each sample, and their receivers."""
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
    """What a developer has set, and over it what makes this one self-contained."""
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
async def _consumer_process(environ: Mapping[str, str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A consumer as it is deployed: a process of its own, stopped by SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "oneprotect", "consumer", env=dict(environ), start_new_session=True
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
