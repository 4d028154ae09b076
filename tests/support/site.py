"""A complete installation for a test: a real nats-server, a tenant with a secret, and consumers."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from consumers.destinations.circuit_breaker import HealthPolicy
from messaging import direct_get
from messaging.admin import topology
from messaging.delivery_requests import publish_request
from oneprotect.bootstrap.consumer import DEFAULT_HEALTH_POLICY, run_consumer
from oneprotect.bootstrap.resources import JetStream, open_jetstream, stream_limits
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.dev.sample_secrets import write_sample_secrets
from oneprotect.settings.settings import Settings
from schemas import streams, subjects
from schemas.events import (
    CONTENT_TYPE,
    AttemptResult,
    DeliveryRequested,
    RequestedData,
    decode_result,
    encode,
)
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id
from tests.support.secured import OF_TESTS, NatsWithUsers

TENANT = "acme"
NAMESPACE = "webhooks"
ORPHAN_TIMEOUT_S = 30


class Site:
    """An installation; `secret` is the signing secret of the tenant, for verification and as a canary."""

    jetstream: JetStream

    def __init__(self, directory: Path, server: EmbeddedNats, **settings: str) -> None:
        self.directory = directory
        self.server = server
        self._users = server.environ if isinstance(server, NatsWithUsers) else {}
        self.environ = {
            "ONEPROTECT_NATS_URL": server.url,
            **(OF_TESTS if self._users else {}),
            "ONEPROTECT_SECRET_PROVIDER": "local",
            "ONEPROTECT_LOCAL_SECRETS_DIR": str(directory / "secrets"),
            "ONEPROTECT_SECRET_NAMESPACE": NAMESPACE,
            "ONEPROTECT_SECRET_RETRY_SCHEDULE_S": "0.3",
            "ONEPROTECT_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
            "ONEPROTECT_EGRESS_ALLOW_HTTP": "true",
            "ONEPROTECT_EGRESS_PORTS": "443,1024-65535",
            "ONEPROTECT_RETRY_SCHEDULE_S": "0.3,0.3,0.3,0.3",
            "ONEPROTECT_RETRY_JITTER": "0",
            "ONEPROTECT_RETRY_AFTER_TIMEOUT_S": "0",
            "ONEPROTECT_ACK_WAIT_S": "2",
            "ONEPROTECT_STATE_DIR": str(directory / "state"),
            "ONEPROTECT_LOG_LEVEL": "debug",
            "ONEPROTECT_LOG_FORMAT": "json",
        } | {f"ONEPROTECT_{name.upper()}": value for name, value in settings.items()}
        self.settings = Settings.load(self.environ)
        self.secret = write_sample_secrets(
            directory / "secrets", namespace=NAMESPACE, tenant=TENANT, names=["signing-key"]
        )["signing-key"]
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.jetstream = await self._open.enter_async_context(open_jetstream(self.settings, name="test"))
        await self.apply()
        await self.jetstream.configuration.set_credential(
            TENANT, "key", {"secret_ref": f"k8s://{NAMESPACE}/signing-key/signing"}, by="test"
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._open.aclose()

    def load(self, **settings: str) -> Settings:
        """Return the settings of the site with some of them replaced."""
        return Settings.load(self.environ | {f"ONEPROTECT_{name.upper()}": value for name, value in settings.items()})

    def environ_of(self, role: str) -> dict[str, str]:
        """Return the environment variables of a program with a role."""
        return self.environ | self._users.get(role, {})

    def settings_of(self, role: str, settings: Settings | None = None) -> Settings:
        """Return settings, those of the site by default, for a program with a role."""
        settings = settings or self.settings
        if role not in self._users:
            return settings
        user = Settings.load(self.environ_of(role)).nats
        nats = replace(settings.nats, nkey_file=user.nkey_file, inbox_prefix=user.inbox_prefix)
        return replace(settings, nats=nats)

    async def apply(self) -> list[topology.TopologyChange]:
        """Create streams, consumers and buckets."""
        return await topology.apply(
            self.jetstream.connection,
            replicas=self.settings.nats.replicas,
            work_per_destination=self.settings.nats.work_per_destination,
            ack_wait_s=self.settings.delivery.ack_wait_s,
            limits=stream_limits(self.settings),
        )

    async def destination(self, name: str, url: str, **fields: Any) -> None:
        """Store a destination that is signed with the credential of the tenant."""
        await self.jetstream.configuration.set_destination(
            TENANT, name, {"url": url, "credential": "key"} | fields, by="test"
        )

    async def deliver(
        self, destination: str, *, payload: bytes = b'{"n": 1}', delivery: str | None = None, **headers: str
    ) -> str:
        """Request a delivery and return its id."""
        delivery = delivery or new_delivery_id()
        await self.publish(destination, document(destination, payload=payload, delivery=delivery), delivery, **headers)
        return delivery

    async def publish(self, destination: str, data: bytes, delivery: str, **headers: str) -> None:
        """Publish a request as a producer does."""
        await publish_request(
            self.jetstream.publisher,
            TENANT,
            destination,
            data,
            {
                HEADER_MSG_ID: subjects.msg_id(TENANT, destination, delivery),
                "content-type": CONTENT_TYPE,
                **headers,
            },
        )

    async def results(self, delivery: str | None = None) -> list[AttemptResult]:
        """Return the recorded results of one delivery or of all."""
        records = direct_get.scan(self.jetstream.connection, streams.ATTEMPTS.name, "oneprotect.delivery.attempted.>")
        results = [decode_result(record.data).data async for record in records]
        return [result for result in results if delivery in (None, result.delivery)]

    async def records(self, stream: streams.StreamConfig) -> list[direct_get.StoredMessage]:
        """Return all messages of a stream."""
        return [record async for record in direct_get.scan(self.jetstream.connection, stream.name, ">")]

    async def waiting(self) -> int:
        """Return the number of unsettled messages: pending, overflowed, in ordered queues or scheduled."""
        count = 0
        # In the order in which messages move: each is stored in the next stream before it leaves the previous one,
        # so the count misses no message that moves meanwhile.
        for stream in (streams.OVERFLOW, streams.WORK, streams.RETRIES, streams.ORDERED):
            info = await self.jetstream.connection.api(f"STREAM.INFO.{stream.name}")
            count += int(info["state"]["messages"])
        return count

    async def is_settled(self) -> bool:
        """Return True when every message is settled."""
        return await self.waiting() == 0

    @contextlib.asynccontextmanager
    async def consumer(self, health_policy: HealthPolicy = DEFAULT_HEALTH_POLICY) -> AsyncGenerator[asyncio.Event]:
        """Run a consumer in this process; it drains at the end, or when the event is set."""
        stop = asyncio.Event()
        running = asyncio.create_task(
            run_consumer(self.settings_of("consumer"), stop=stop, health_policy=health_policy)
        )
        try:
            yield stop
        finally:
            stop.set()
            await running

    @contextlib.asynccontextmanager
    async def consumer_process(
        self, *arguments: str, environ: dict[str, str] | None = None
    ) -> AsyncGenerator["Process"]:
        """Run a consumer process with the settings of the site and `environ`; it is killed at the end."""
        process = await Process.start(self.environ_of("consumer") | (environ or {}), "consumer", *arguments)
        try:
            yield process
        finally:
            process.kill()
            await process.wait()


class Process:
    """A process of `oneprotect`, with its output on stdout and stderr."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = bytearray()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, environ: dict[str, str], *arguments: str, module: str = "oneprotect") -> "Process":
        """Start a process with only `environ` and Python's own variables in its environment."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            env=inherited | environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(65536):
            self.output += chunk

    def says(self, text: str) -> bool:
        """Return True when the output contains `text`."""
        return text.encode() in self.output

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def wait(self) -> int:
        """Return the exit code, after all output has been read. What the process started must end with it."""
        code = await self.process.wait()
        await asyncio.wait({self._reading}, timeout=ORPHAN_TIMEOUT_S)
        assert self._reading.done(), "a child of the process outlives it"
        return code


def document(destination: str, *, payload: bytes = b'{"n": 1}', delivery: str = "dlv_1", tenant: str = TENANT) -> bytes:
    """Return a delivery request as a producer publishes it."""
    return encode(
        DeliveryRequested(
            specversion="1.0",
            id=delivery,
            source="/tests",
            type="oneprotect.delivery.requested.v1",
            time=datetime.now(UTC),
            tenant=tenant,
            data=RequestedData(destination=destination, event_type="invoice.paid", payload=msgspec.Raw(payload)),
        )
    )
