"""The installation to measure: a nats-server, the receiver, and the contenders as processes of their own."""

import base64
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import psutil
from msgspec import Struct

from bench.harness import receiver
from bench.harness.bare_loop import Setup, Target
from bench.harness.child import Child, child, cpu_s
from bench.harness.workload import (
    ADDRESSES,
    AIOHTTP,
    BARE,
    DESTINATION_IN_FLIGHT,
    IN_FLIGHT,
    PAYLOAD,
    PRODUCT,
    TENANTS,
    Address,
    Contender,
)
from messaging.admin import topology
from oneprotect.bootstrap.resources import JetStream, open_jetstream
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.sample_secrets import KEY, write_sample_secrets
from oneprotect.settings.settings import Settings
from tests.kubernetes.certificates import Authority

START_TIMEOUT_S: Final = 15.0

_NAMESPACE: Final = "bench"
_CREDENTIAL: Final = "key"


class CpuTimes(Struct, frozen=True):
    """Seconds of CPU time used so far, at one moment."""

    consumer_s: float
    nats_s: float
    receiver_s: float


class Site:
    """The measured installation, and the processes that measure it."""

    def __init__(
        self,
        jetstream: JetStream,
        nats_pid: int,
        receiving: Child,
        directory: Path,
        *,
        environ: Mapping[str, str],
        bare_setups: Mapping[str, Setup],
    ) -> None:
        self.jetstream = jetstream
        self.receiver = receiving
        self._nats = psutil.Process(nats_pid)
        self._consumers: dict[str, Child] = {}
        self._directory = directory
        self.environ = environ
        self._bare_setups = bare_setups

    @contextlib.asynccontextmanager
    async def product(self, contender: Contender, environ: Mapping[str, str], *more: str) -> AsyncGenerator[None]:
        """The product's consumer runs meanwhile, under the contender's name; with `more` arguments and environment."""
        command, variables = ("oneprotect", "consumer", *more), {**self.environ, **environ}
        async with child("product", *command, log=self._directory / "product.log", environ=variables) as running:
            self._consumers[contender.name] = running
            yield

    @contextlib.asynccontextmanager
    async def bare(self, contender: Contender) -> AsyncGenerator[None]:
        """A bare loop runs meanwhile."""
        log = self._directory / f"{contender.http}.log"
        async with child(contender.name, "bench.harness.bare_loop", log=log) as running:
            self._consumers[contender.name] = running
            running.tell(msgspec.json.encode(self._bare_setups[contender.name]))
            yield

    def contender(self, contender: Contender) -> contextlib.AbstractAsyncContextManager[None]:
        """The product's consumer or a bare loop, whichever it is, runs meanwhile."""
        return self.product(contender, {}) if contender is PRODUCT else self.bare(contender)

    @property
    def targets(self) -> Mapping[str, Target]:
        """URL and key of each destination, by `<tenant>.<destination>`: for contenders without secrets."""
        return self._bare_setups[BARE.name].targets

    @property
    def nats_url(self) -> str:
        """Return the URL of the server."""
        return self.environ["ONEPROTECT_NATS_URL"]

    def nats_cpu_s(self) -> float:
        """Seconds of CPU time that the server has used so far."""
        return cpu_s(self._nats)

    def consumer(self, contender: Contender) -> Child:
        """Its process."""
        return self._consumers[contender.name]

    def cpu_times(self, contender: Contender) -> CpuTimes:
        """CPU time of the processes that take part when `contender` delivers."""
        return CpuTimes(self.consumer(contender).cpu_s(), self.nats_cpu_s(), self.receiver.cpu_s())

    async def pause(self, contender: Contender) -> None:
        """Hand out nothing of its work until `resume`."""
        until = datetime.now(UTC) + timedelta(hours=1)
        await self._pause_until(contender, {"pause_until": until})

    async def resume(self, contender: Contender) -> None:
        """Hand out its work again."""
        await self._pause_until(contender, {})

    async def _pause_until(self, contender: Contender, request: dict[str, Any]) -> None:
        await self.jetstream.connection.api(f"CONSUMER.PAUSE.{_durable(contender)}", request)

    async def is_pulling(self, contender: Contender) -> bool:
        """Return True when the process has requested work from the server."""
        info = await self.jetstream.connection.api(f"CONSUMER.INFO.{_durable(contender)}")
        return int(info.get("num_waiting", 0)) > 0

    async def messages(self, stream: str) -> int:
        """Return the number of messages in a stream."""
        info = await self.jetstream.connection.api(f"STREAM.INFO.{stream}")
        return int(info["state"]["messages"])

    async def report(self) -> receiver.Report:
        """Return the report of the receiver. Raises `BenchError`."""
        path = self._directory / "report.json"
        self.receiver.tell(b"report %b" % os.fsencode(path))
        await self.receiver.hear("reported", START_TIMEOUT_S)
        return msgspec.json.decode(path.read_bytes(), type=receiver.Report)


@contextlib.asynccontextmanager
async def site(
    directory: Path, *, https: bool = False, variables: Mapping[str, str] = MappingProxyType({})
) -> AsyncGenerator[Site]:
    """Set everything up, with all contenders running and nothing to do, and more `variables` for the product's.

    Raises `BenchError`, `EmbeddedNatsError` or `JetStreamError`.
    """
    async with (
        opened(directory, https=https) as one,
        one.product(PRODUCT, variables),
        one.bare(BARE),
        one.bare(AIOHTTP),
    ):
        yield one


@contextlib.asynccontextmanager
async def opened(
    directory: Path,
    *,
    https: bool = False,
    addresses: Sequence[Address] = ADDRESSES,
    manner: receiver.Manner = receiver.Manner(),  # noqa: B008 - it is immutable
    in_flight: int = IN_FLIGHT,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncGenerator[Site]:
    """Set everything up, with no contender running, and more `variables` for the product's. Raises as `site` does.

    `in_flight`: deliveries that each of the contenders may have at a time.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedNats(directory / "nats"))
        authority = Authority(directory / "authority") if https else None
        environ = {**_environ(server.url, directory, authority, in_flight), **variables}
        settings = Settings.load(environ, resolves_secrets=True)
        jetstream = await stack.enter_async_context(open_jetstream(settings, name="bench"))
        await _apply(jetstream, settings)
        secrets = _write_secrets(directory / "secrets")
        receiving = await stack.enter_async_context(_receiver(secrets, directory, authority, addresses, manner))
        ports = (await receiving.hear("port", START_TIMEOUT_S)).split()
        start = f"http{'s' if https else ''}://127.0.0.1"
        urls = {one: f"{start}:{port}{one.path}" for one, port in zip(addresses, itertools.cycle(ports), strict=False)}
        await _configure(jetstream, urls)
        bare_setups = {
            loop.name: _bare_setup(loop, server.url, urls, secrets, authority, in_flight) for loop in (BARE, AIOHTTP)
        }
        yield Site(jetstream, server.pid, receiving, directory, environ=environ, bare_setups=bare_setups)


def _environ(nats_url: str, directory: Path, authority: Authority | None, in_flight: int) -> dict[str, str]:
    environ = {"ONEPROTECT_EGRESS_CA_FILE": str(authority.ca_file)} if authority else {}
    return environ | {
        "ONEPROTECT_NATS_URL": nats_url,
        "ONEPROTECT_SECRET_PROVIDER": "local",
        "ONEPROTECT_LOCAL_SECRETS_DIR": str(directory / "secrets"),
        "ONEPROTECT_SECRET_NAMESPACE": _NAMESPACE,
        "ONEPROTECT_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
        "ONEPROTECT_EGRESS_ALLOW_HTTP": "true",
        "ONEPROTECT_EGRESS_PORTS": "1024-65535",
        "ONEPROTECT_MAX_IN_FLIGHT": str(in_flight),
        "ONEPROTECT_DESTINATION_MAX_IN_FLIGHT": str(DESTINATION_IN_FLIGHT),
        "ONEPROTECT_WORK_PER_DESTINATION": "100000",
    }


async def _apply(jetstream: JetStream, settings: Settings) -> None:
    per_destination, ack_wait_s = settings.nats.work_per_destination, settings.delivery.ack_wait_s
    await topology.apply(jetstream.connection, replicas=1, work_per_destination=per_destination, ack_wait_s=ack_wait_s)
    for loop in (BARE, AIOHTTP):
        for stream in (loop.work, loop.results):
            config = topology.stream_config(stream, replicas=1, work_per_destination=per_destination)
            await jetstream.connection.api(f"STREAM.CREATE.{stream.name}", config)
        consumer = loop.consumer
        await jetstream.connection.api(
            f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}.{consumer.filter_subject}",
            {"stream_name": consumer.stream, "config": topology.consumer_config(consumer, ack_wait_s=ack_wait_s)},
        )


def _write_secrets(directory: Path) -> dict[str, str]:
    """A secret for each tenant, by tenant."""
    return {
        tenant: write_sample_secrets(directory, namespace=_NAMESPACE, tenant=tenant, names=[tenant])[tenant]
        for tenant in TENANTS
    }


@contextlib.asynccontextmanager
async def _receiver(
    secrets: Mapping[str, str],
    directory: Path,
    authority: Authority | None,
    addresses: Sequence[Address],
    manner: receiver.Manner,
) -> AsyncGenerator[Child]:
    async with child("receiver", "bench.harness.receiver", log=directory / "receiver.log", speaks=True) as running:
        certificate, key = authority.issue("127.0.0.1") if authority else (None, None)
        files = (str(certificate), str(key)) if authority else None
        known = {address.path: secrets[address.tenant] for address in addresses}
        setup = receiver.Setup(known, PAYLOAD, files, manner)
        running.tell(msgspec.json.encode(setup))
        yield running


async def _configure(jetstream: JetStream, urls: Mapping[Address, str]) -> None:
    for tenant in TENANTS:
        credential = {"secret_ref": f"k8s://{_NAMESPACE}/{tenant}/{KEY}"}
        await jetstream.configuration.set_credential(tenant, _CREDENTIAL, credential, by="bench")
    for address, url in urls.items():
        destination = {"url": url, "credential": _CREDENTIAL}
        await jetstream.configuration.set_destination(address.tenant, address.destination, destination, by="bench")


def _bare_setup(
    contender: Contender,
    nats_url: str,
    urls: Mapping[Address, str],
    secrets: Mapping[str, str],
    authority: Authority | None,
    in_flight: int,
) -> Setup:
    return Setup(
        nats_url=nats_url,
        stream=contender.work.name,
        consumer=contender.consumer.name,
        results=contender.results.subjects[0].removesuffix(".*.*"),
        in_flight=in_flight,
        http=contender.http,
        ca_file=str(authority.ca_file) if authority else None,
        targets={
            f"{address.tenant}.{address.destination}": Target(url, _key(secrets[address.tenant]))
            for address, url in urls.items()
        },
    )


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


def _durable(contender: Contender) -> str:
    return f"{contender.consumer.stream}.{contender.consumer.name}"
