"""A service of the NATS services framework: discovery, ping and statistics beside an endpoint (ADR-32).

Requests of all processes of a service share a queue group, so the server gives each request to one of them.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from messaging.client.connection import NatsConnection, Subscription
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.client.headers import read_headers

ERROR_CODE: Final = "Nats-Service-Error-Code"
ERROR: Final = "Nats-Service-Error"
VERBS: Final = ("PING", "INFO", "STATS")

_INBOXES: Final = ("_INBOX", "_R_.", "_GR_.")
"""Prefixes of inboxes, of their replacements across accounts, and of those across clusters."""


class ServiceRequest(Struct, frozen=True, gc=False):
    """A received request. `block`: encoded headers, empty without any."""

    subject: str
    reply: str
    data: bytes
    block: bytes
    received_ns: int
    """Time of receipt on the clock of `time.perf_counter_ns`."""

    @property
    def is_answerable(self) -> bool:
        """True if the reply subject is an inbox, or a subject that a server made in its place.

        A response to any other subject would be a message of this process to a subject that the requester chose.
        """
        return self.reply.startswith(_INBOXES) and self.reply.isascii()

    @property
    def size(self) -> int:
        """The bytes of the request."""
        return len(self.data) + len(self.block)

    @property
    def headers(self) -> dict[str, str]:
        """The headers by their names in lower case: producers spell them in many ways."""
        return {name.lower(): value for name, value in read_headers(self.block).items()} if self.block else {}


class ServiceEndpoint(Struct, frozen=True, kw_only=True):
    """The endpoint of a service. `on_request` may not wait, and must limit the requests that it keeps."""

    name: str
    subject: str
    on_request: Callable[[ServiceRequest], None]
    metadata: Mapping[str, str] = {}


def control_subjects(name: str, instance: str) -> dict[str, str]:
    """Return the subjects of discovery with their verbs. `*` as `instance` makes patterns."""
    places = ("", f".{name}", f".{name}.{instance}")
    return {f"$SRV.{verb}{place}": verb for verb in VERBS for place in places}


class NatsService:
    """A process of a service. Its statistics begin with the process."""

    def __init__(
        self, connection: NatsConnection, *, name: str, version: str, description: str, endpoint: ServiceEndpoint
    ) -> None:
        self._connection = connection
        self._description = description
        self._endpoint = endpoint
        self._name = name
        self._id = secrets.token_hex(11)
        self._identity: dict[str, Any] = {"name": name, "id": self._id, "version": version, "metadata": {}}
        self._started = datetime.now(UTC)
        self._subscriptions: list[Subscription] = []
        self._receiving: list[Subscription] = []
        self._ended: tuple[Subscription, ...] = ()
        self._requests = self._errors = self._processing_ns = 0
        self._last_error = ""

    async def start(self) -> None:
        """Receive requests from now on."""
        endpoint = self._endpoint
        for subject, verb in control_subjects(self._name, self._id).items():
            self._subscriptions.append(await self._connection.listen(subject, self._discovery(verb)))
        self._connection.yield_while_reading()
        await self.receive_on([endpoint.subject])
        await self._connection.flush()  # from here on the server has responders for the subjects

    async def receive_on(self, subjects: Sequence[str]) -> None:
        """Receive requests on these subjects, instead of the former ones. The endpoint's subject covers them all."""
        ended, former = self._ended, tuple(self._receiving)
        for subject in subjects:
            self._receiving.append(await self._connection.listen(subject, self._on_request, group=self._name))
        # What the server has sent before still arrives, so a subscription is forgotten at the next change only.
        self._receiving, self._ended = self._receiving[len(former) :], former
        await self._connection.end_interest(former)
        await self._connection.forget(ended)

    async def drain(self) -> None:
        """Receive no further request. Requests that the server has sent already are still received."""
        await self._connection.drain([*self._receiving, *self._subscriptions, *self._ended])

    def respond(self, request: ServiceRequest, body: bytes, headers: Mapping[str, str], *, error: str = "") -> None:
        """Send the response to a request.

        Args:
            error: A short text for the statistics if the request failed. Then `headers` has `ERROR_CODE` and `ERROR`.

        Raises:
            RejectedByServer: The response is larger than the server allows.
            ServerUnavailable: Responses cannot be sent at the moment. The requester repeats the request.
        """
        self._requests += 1
        self._processing_ns += time.perf_counter_ns() - request.received_ns
        if error:
            self._errors += 1
            self._last_error = error
        self._send(request, body, headers)

    def _send(self, request: ServiceRequest, body: bytes, headers: Mapping[str, str]) -> None:
        if self._connection.is_backed_up:
            raise ServerUnavailable("NATS does not accept responses as fast as requests arrive")
        self._connection.post(request.reply, body, headers=headers)

    def _on_request(self, subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        self._endpoint.on_request(_read_request(subject, reply, data, block))

    def _discovery(self, verb: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        document = {"PING": dict, "INFO": self._info, "STATS": self._stats}[verb]
        kind = {"type": f"io.nats.micro.v1.{verb.lower()}_response"}

        def respond(subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
            request = _read_request(subject, reply, data, block)
            if request.is_answerable:
                with contextlib.suppress(JetStreamError):  # the requester asks again
                    self._send(request, msgspec.json.encode(kind | self._identity | document()), {})

        return respond

    def _info(self) -> dict[str, Any]:
        return {"description": self._description, "endpoints": [self._place() | {"metadata": self._endpoint.metadata}]}

    def _stats(self) -> dict[str, Any]:
        figures = {
            "num_requests": self._requests,
            "num_errors": self._errors,
            "last_error": self._last_error,
            "processing_time": self._processing_ns,
            "average_processing_time": self._processing_ns // max(self._requests, 1),
        }
        return {"started": self._started, "endpoints": [self._place() | figures]}

    def _place(self) -> dict[str, Any]:
        endpoint = self._endpoint
        return {"name": endpoint.name, "subject": endpoint.subject, "queue_group": self._name}


def _read_request(subject: bytes, reply: bytes, data: bytes, block: bytes) -> ServiceRequest:
    return ServiceRequest(
        subject.decode("ascii", "replace"), reply.decode("ascii", "replace"), data, block, time.perf_counter_ns()
    )
