"""Delivery requests over NATS, with the bodies and answers of `POST /v1/tenants/{tenant}/deliveries`.

The subject names the tenant, and the accounts of the NATS server decide who may use it (deploy/nats). Nothing in the
headers or the body grants anything.
"""

import asyncio
import functools
import time
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.service import ERROR, ERROR_CODE, NatsService, ServiceEndpoint, ServiceRequest
from messaging.tenant_turns import TooManyWaiting, Turn
from oneprotect.api.nats_service.cloud_events import read_delivery
from oneprotect.api.nats_service.flood_guard import FloodGuard
from oneprotect.api.operations.delivery_intake import KEY, accept_delivery
from oneprotect.api.operations.operation import JSON
from oneprotect.api.operations.request import ApiDependencies
from oneprotect.api.web.body_turns import MAX_WAIT_S
from oneprotect.api.web.problems import MEDIA_TYPE, Problem, broken_rule, problem_of, too_many
from oneprotect.api.web.request_body import too_large
from oneprotect.api.web.request_span import RequestSpan
from schemas import subjects
from schemas.headers import HEADER_CONTENT_TYPE, HEADER_TRACE
from schemas.ids import is_name
from schemas.validation import NAME_IN_WORDS
from telemetry.metrics import definitions
from telemetry.otlp.trace_context import Attributes
from telemetry.telemetry import Telemetry

REQUEST_BYTES: Final = 16 * 1024
"""The least size of a request when it takes turns: here no connections limit the requests of a tenant."""
DRAIN_TIMEOUT_S: Final = 20.0

_BAD_REQUEST: Final = frozenset({400, 413, 415, 422})
_BUSY: Final = too_many("Too many requests of the tenant wait.", 1)
_NO_TENANT: Final = broken_rule("tenant", f"expected {NAME_IN_WORDS}")
_UNANSWERABLE: Final = broken_rule(None, "send a request, with an inbox as its reply subject")
_TENANT_AT: Final = subjects.deliveries("*").split(".").index("*")

_log = structlog.get_logger(__name__)


class DeliveryService:
    """The service of one API process."""

    def __init__(self, connection: NatsConnection, parts: ApiDependencies, telemetry: Telemetry, version: str) -> None:
        self._parts = parts
        self._telemetry = telemetry
        self._turns = parts.limiter.bodies.storing
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_warned = False
        self._service = NatsService(
            connection,
            name=subjects.SERVICE,
            version=version,
            description="Accepts deliveries, like POST /v1/tenants/{tenant}/deliveries.",
            endpoint=ServiceEndpoint(name="deliveries", subject=subjects.deliveries("*"), on_request=self._receive),
        )
        self._guard = FloodGuard(
            self._service.receive_on, lambda: parts.tokens.tenants() | parts.destinations.tenants()
        )

    async def start(self) -> None:
        """Receive requests from now on."""
        await self._service.start()

    async def drain(self) -> None:
        """Receive no further request, and finish the received ones within `DRAIN_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._guard.stop()
                await self._service.drain()
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            _log.warning("service.drain_timed_out", unfinished=len(self._tasks))
            for task in self._tasks:
                task.cancel()

    def _receive(self, request: ServiceRequest) -> None:
        tenant = request.subject.split(".")[_TENANT_AT]
        if self._guard.is_paused(tenant):
            self._count("dropped")
            return
        refusal = self._enqueue(tenant, request)
        if refusal is None:
            return
        self._guard.note_refusal(tenant, request.size)
        if request.is_answerable:
            self._respond(request, refusal)
        else:
            self._count("unanswerable")
            if not self._has_warned:  # once, because any producer can cause it at any rate
                self._has_warned = True
                _log.warning("service.unanswerable_request")

    def _enqueue(self, tenant: str, request: ServiceRequest) -> Problem | None:
        """Add the request to its queue, or return why not."""
        if not is_name(tenant):
            return _NO_TENANT
        self._guard.note(tenant)
        if not request.is_answerable:
            return _UNANSWERABLE
        if request.size > self._parts.limits.body_bytes:
            return too_large(self._parts.limits)
        if self._parts.limiter.is_exhausted(tenant):
            return _BUSY
        try:
            self._turns.ask(tenant, functools.partial(self._start, request), size=max(REQUEST_BYTES, request.size))
        except TooManyWaiting:
            return _BUSY
        return None

    def _count(self, status: str) -> None:
        self._telemetry.counters.add(definitions.NATS_REQUESTS, (("status", status),))

    def _start(self, request: ServiceRequest, turn: Turn) -> None:
        task = asyncio.create_task(self._handle(request, turn), name="nats request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, request: ServiceRequest, turn: Turn) -> None:
        tenant = turn.tenant
        spans, headers = self._telemetry.spans, request.headers
        trace = headers.get(HEADER_TRACE)
        span = None if spans is None else RequestSpan(spans, self._telemetry.sampling, trace)
        response: Problem | bytes
        try:
            response = await self._accept(tenant, request, headers, span.header if span else trace)
        except Exception as error:  # noqa: BLE001 - `problem_of` logs unexpected ones
            response = problem_of(error)
            if response.status in _BAD_REQUEST:
                self._guard.note_refusal(tenant, request.size)
        finally:
            self._turns.end(turn)
        status = self._respond(request, response)
        if span is not None:
            subject = subjects.deliveries("{tenant}")
            named: Attributes = {"messaging.system": "nats", "messaging.destination.template": subject}
            span.end(f"process {subject}", {**named, "oneprotect.status": status}, status)

    async def _accept(
        self, tenant: str, request: ServiceRequest, headers: Mapping[str, str], trace: str | None
    ) -> bytes:
        with self._parts.limiter.admit(tenant):
            if time.perf_counter_ns() - request.received_ns > MAX_WAIT_S * 1e9:
                raise too_many("Requests of the tenant waited for too long.", 1)
            new = read_delivery(tenant, request.data, headers)
            accepted = await accept_delivery(self._parts, tenant, new, key=headers.get(KEY.lower()), trace=trace)
        return msgspec.json.encode(accepted)

    def _respond(self, request: ServiceRequest, response: Problem | bytes) -> int:
        """Send the response, and return its status."""
        status = response.status if isinstance(response, Problem) else 202
        try:
            self._send(request, response)
        except RejectedByServer:
            if not isinstance(response, Problem):
                return self._respond(request, _reply_too_large())
        except JetStreamError:
            pass  # the producer repeats the request
        duration_s = (time.perf_counter_ns() - request.received_ns) / 1e9
        self._count(str(status))
        self._telemetry.counters.observe(definitions.NATS_DURATION, duration_s)
        return status

    def _send(self, request: ServiceRequest, response: Problem | bytes) -> None:
        if isinstance(response, bytes):
            self._service.respond(request, response, {HEADER_CONTENT_TYPE: JSON})
            return
        body, headers = _ENCODED_BUSY if response is _BUSY else _encode(response)
        self._service.respond(request, body, headers, error=f"{response.status} {response.kind}")


def _encode(problem: Problem) -> tuple[bytes, Mapping[str, str]]:
    document = problem.document()
    headers = {
        HEADER_CONTENT_TYPE: MEDIA_TYPE,
        ERROR_CODE: str(document.status),
        ERROR: f"{document.title}: {problem.detail}",
    }
    if (retry_after := problem.headers.get("retry-after")) is not None:
        headers["Retry-After"] = retry_after
    return problem.encode(), headers


def _reply_too_large() -> Problem:
    detail = "The deliveries are stored. The list of them exceeds the NATS server's `max_payload`. Raise it."
    return Problem(500, "reply-too-large", detail)


_ENCODED_BUSY: Final = _encode(_BUSY)
"""Encoded once, because a flood gets it at a high rate."""
