"""The delivery handler: decode, destination, secret, sign, send, and say how it ended."""

import functools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from consumers.attempts.log import AttemptLog
from consumers.credentials.checker import SecretObserver
from consumers.delivery import effects, response_redaction
from consumers.delivery.head_state import HeadState, HeadStateCache
from consumers.delivery.route_cache import DeliveryRoute, RouteCache, common_headers, parsed_ref
from consumers.destinations.directory import ConfigurationDirectory
from consumers.destinations.health import DestinationHealth
from consumers.destinations.hourly_stats import HourlyStatsRecorder
from consumers.http_client.client import WebhookSender
from consumers.http_client.response import WebhookResponse
from consumers.model.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest
from consumers.retries import policy as retry
from consumers.signatures.signer import SignedHeaders, sign
from consumers.worker.disposition import Disposition, Requeue, quarantine_publication
from messaging.pull_consumer import Message
from provider.errors import SecretError, SecretNotFound
from provider.provider import SecretProvider
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.configuration import DEFAULT_RETRY_SCHEDULE_S, Destination, RetryPolicy
from schemas.events import AttemptResult
from schemas.ids import Purpose

HALF_OPEN_RETRY_S: Final = 2.0
"""How long what is due waits while another attempt tries whether its destination is back."""
MIN_DEFERRAL_JITTER_S: Final = 1.0
"""Over how much time, at least, the work of a rested destination comes back."""
_SINCE: Final = subjects.HEADER_SINCE.encode()
SECRET_RETRY_SCHEDULE_S: Final = (30.0, 60.0, 300.0, 900.0, 3600.0)


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every destination that does not say otherwise."""

    timeout_s: float = 15
    max_payload_bytes: int = 256 * 1024
    retry: RetryPolicy = RetryPolicy(schedule_s=DEFAULT_RETRY_SCHEDULE_S)
    secret_retry_schedule_s: tuple[float, ...] = SECRET_RETRY_SCHEDULE_S
    secret_namespace: str | None = None
    user_agent: str = "OneProtect-Delivery"


class AttemptObserver(Protocol):
    """Wants to know how each attempt ended."""

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """An attempt ended so, or was found on record (`suppressed`). Must be cheap."""
        ...


class CachingSecretProvider(SecretProvider, Protocol):
    """A provider with a memory."""

    def find_cached(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret | None:
        """The secret, if it is fresh in memory and may be had. Never waits."""
        ...


HandlerResult = Disposition | Exception
"""What must be stored before a request may be acknowledged, or what nobody foresaw."""


class DeliveryHandler:
    """Takes a request from a stream and returns what must be stored before it may be acknowledged."""

    def __init__(
        self,
        *,
        directory: ConfigurationDirectory,
        provider: CachingSecretProvider,
        sender: WebhookSender,
        history: AttemptLog,
        watch: SecretObserver,
        health: DestinationHealth,
        activity: HourlyStatsRecorder,
        heads: HeadStateCache,
        policy: DeliveryPolicy,
        worker: str,
        observer: AttemptObserver | None = None,
        is_archived: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_archived`: whether there is an archive to keep what was delivered."""
        self._directory = directory
        self._provider = provider
        self._sender = sender
        self._history = history
        self._watch = watch
        self._health = health
        self._activity = activity
        self._heads = heads
        self._policy = policy
        self._worker = worker
        self._observer = observer
        self._routes = RouteCache(directory, policy.secret_namespace)
        self.deferrals = 0
        """Requests put off as their destination rests."""
        self.quarantines = 0
        """Requests that could not be understood."""
        self._is_archived = is_archived

    def try_start(self, message: Message, on_end: Callable[[HandlerResult], None]) -> Callable[[], None] | None:
        """Handle a request without a coroutine, if all that it needs is in memory, as it nearly always is.

        None if it isn't: nothing has been done then, and the request is to be handled by a call. Else returns how to
        give up, and `on_end` gets what must be stored, or what nobody foresaw.
        """
        if message.deliveries > 1 or message.stream == subjects.ORDERED.name or _SINCE in message.header_block:
            return None
        now = time.monotonic()
        route = self._routes.find(message.lane, now)
        if route is None or message.lane in self._health.not_closed:
            return None
        most = self._policy.max_payload_bytes
        delivery = DeliveryAttemptRequest.from_plain_message(
            message, route.tenant, route.name, max_payload_bytes=most
        ) or self._read(message)
        if delivery is None:
            return None
        attempt = DeliveryAttempt(delivery, now)
        secret = self._provider.find_cached(route.secret_ref, tenant=route.tenant, purpose=route.purpose)
        way = route.prepared_request(delivery, self._sender, self._policy.user_agent)
        if secret is None or way is None:
            return None
        attempt.resolved_s = time.monotonic() - now
        signed = sign(secret, delivery=delivery.id, body=delivery.body, now=attempt.started_at)
        destination = route.destination
        return self._sender.start(
            way,
            lines=(
                f"webhook-id: {delivery.id}\r\nwebhook-timestamp: {signed.timestamp}\r\n"
                f"webhook-signature: {signed.signature}\r\n"
            ),
            body=delivery.body,
            timeout_s=destination.timeout_s or self._policy.timeout_s,
            capture=destination.capture_response,
            on_reply=functools.partial(self._on_reply, attempt, route, signed, secret.version, on_end),
        )

    def _read(self, message: Message) -> DeliveryAttemptRequest | None:
        try:
            return DeliveryAttemptRequest.from_message(message, max_payload_bytes=self._policy.max_payload_bytes)
        except ValueError:
            return None

    def _on_reply(
        self,
        attempt: DeliveryAttempt,
        route: DeliveryRoute,
        signed: SignedHeaders,
        secret_version: str,
        on_end: Callable[[HandlerResult], None],
        reply: WebhookResponse,
    ) -> None:
        try:
            self._watch.on_secret_result(route.credential_key, None)
            ended: HandlerResult = self._ended(
                attempt, self._result(attempt, route.destination, signed, secret_version, reply)
            )
        except Exception as error:  # noqa: BLE001  for the runtime, which is the edge
            ended = error
        on_end(ended)

    async def __call__(self, message: Message) -> Disposition:
        """Handle one request. Raises only what nobody foresaw."""
        try:
            delivery = DeliveryAttemptRequest.from_message(message, max_payload_bytes=self._policy.max_payload_bytes)
        except ValueError as error:
            self.quarantines += 1
            return (quarantine_publication(message, Code.EVENT_INVALID, str(error)),)
        if (message.deliveries > 1 and message.stream != subjects.ORDERED.name) or (
            subjects.HEADER_SINCE in message.headers  # its line has found that it is settled
        ):
            recorded = await self._history.find(delivery)
            if recorded is not None:
                attempt = DeliveryAttempt(delivery, time.monotonic())
                if self._observer is not None:
                    suppressed = msgspec.structs.replace(recorded, outcome=Outcome.SUPPRESSED)
                    self._observer.on_attempt(attempt, suppressed)
                return effects.for_duplicate(delivery, recorded, at=attempt.ended_at, archived=self._is_archived())
        rest_s = self._health.open_for_s(delivery.tenant, delivery.destination)
        if rest_s is None and self._health.is_half_open(f"{delivery.tenant}.{delivery.destination}"):
            rest_s = None if await self._may_try(delivery) else HALF_OPEN_RETRY_S
        if rest_s is not None and not delivery.is_ping:
            return self._deferred(delivery, rest_s)
        attempt = DeliveryAttempt(delivery, time.monotonic())
        result = await self._make(attempt)
        if result is None:
            return Requeue()
        return self._ended(attempt, result)

    def _ended(self, attempt: DeliveryAttempt, result: AttemptResult) -> Disposition:
        delivery, message = attempt.delivery, attempt.delivery.message
        if self._observer is not None:
            self._observer.on_attempt(attempt, result)
        self._activity.record_attempt(message.lane, result, attempt.ended_s)
        if (
            result.outcome is Outcome.RETRY_SCHEDULED
            and not delivery.is_ping
            and message.stream == subjects.ORDERED.name
        ):
            standing = HeadState(delivery.progress.after_result(result), result.next_attempt_at)
            self._heads.note(delivery.tenant, delivery.destination, message, standing)
            return Requeue(effects.result_only(delivery, result, at=attempt.ended_at))
        return effects.after_attempt(delivery, result, at=attempt.ended_at, archived=self._is_archived())

    async def _may_try(self, delivery: DeliveryAttemptRequest) -> bool:
        """Whether this is the attempt that tries a destination on trial. A line is tried by its head, of itself."""
        if delivery.is_ping or delivery.message.stream == subjects.ORDERED.name:
            return True
        return await self._health.acquire_half_open_probe(f"{delivery.tenant}.{delivery.destination}")

    def _deferred(self, delivery: DeliveryAttemptRequest, rest_s: float) -> Disposition:
        if delivery.message.stream == subjects.ORDERED.name:
            return Requeue()  # the head of a line waits where it is
        self.deferrals += 1
        spread_s = random.uniform(0, max(MIN_DEFERRAL_JITTER_S, rest_s / 2))  # noqa: S311 - not for security
        return effects.deferral(delivery, datetime.now(UTC) + timedelta(seconds=rest_s + spread_s))

    async def _make(self, attempt: DeliveryAttempt) -> AttemptResult | None:
        """Make it, and say how it ended. None when it must come in its destination's line and has not."""
        delivery = attempt.delivery
        destination = await self._directory.destination(delivery.tenant, delivery.destination)
        if destination is None:
            return self._unsent(attempt, Outcome.FAILED, Code.DESTINATION_NOT_FOUND)
        if destination.ordering == "fifo" and delivery.message.stream != subjects.ORDERED.name:
            return None
        if not destination.enabled:
            return self._unsent(attempt, Outcome.SKIPPED, Code.DESTINATION_DISABLED)
        credential_key = f"{delivery.tenant}.{destination.credential}"
        try:
            secret = await self._secret(delivery.tenant, destination)
        except SecretError as error:
            failed = type(error)
        else:
            self._watch.on_secret_result(credential_key, None)
            return await self._send(attempt, destination, secret)
        self._watch.on_secret_result(credential_key, failed.code)
        return self._without_secret(attempt, failed)

    async def _secret(self, tenant: str, destination: Destination) -> SigningSecret:
        credential = await self._directory.credential(tenant, destination.credential)
        if credential is None:
            raise SecretNotFound
        ref = parsed_ref(credential.secret_ref, self._policy.secret_namespace)
        return await self._provider.resolve(ref, tenant=tenant, purpose=credential.purpose)

    async def _send(self, attempt: DeliveryAttempt, destination: Destination, secret: SigningSecret) -> AttemptResult:
        attempt.resolved_s = time.monotonic() - attempt.started_monotonic_s
        delivery = attempt.delivery
        signed = sign(secret, delivery=delivery.id, body=delivery.body, now=attempt.started_at)
        reply = await self._sender.send(
            destination.url,
            headers=self._headers(delivery, destination, signed),
            body=delivery.body,
            timeout_s=destination.timeout_s or self._policy.timeout_s,
            capture=destination.capture_response,
        )
        return self._result(attempt, destination, signed, secret.version, reply)

    def _result(
        self,
        attempt: DeliveryAttempt,
        destination: Destination,
        signed: SignedHeaders,
        secret_version: str,
        reply: WebhookResponse,
    ) -> AttemptResult:
        attempt.end()
        delivery, progress = attempt.delivery, attempt.delivery.progress
        self._health.record_reply(delivery.message.lane, destination.url, reply, attempt.ended_at)
        is_taken = reply.code is Code.HTTP_2XX
        wait_s = None if is_taken else self._wait_s(delivery, destination, reply)
        result = AttemptResult(  # fifteen fields: for more, Python makes a dict of them, which takes 0.4 µs
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=progress.attempt,
            outcome=Outcome.DELIVERED if is_taken else Outcome.FAILED if wait_s is None else Outcome.RETRY_SCHEDULED,
            code=reply.code,
            started_at=attempt.started_at,
            duration_ms=attempt.duration_ms,
            worker=self._worker,
            http_status=reply.http_status,
            request_bytes=len(delivery.body),
            response_bytes=reply.response_bytes,
            signed_with=signed.slots,
            secret_version=secret_version,
            url_host=_host(destination.url),
        )
        if is_taken and progress.replay is None and not destination.capture_response:
            return result
        return msgspec.structs.replace(
            result,
            retry_after_s=reply.retry_after_s,
            next_attempt_at=_after(attempt, wait_s),
            replay=progress.replay,
            response_body=_shown(reply, destination, signed) if destination.capture_response else None,
        )

    def _wait_s(
        self, delivery: DeliveryAttemptRequest, destination: Destination, reply: WebhookResponse
    ) -> float | None:
        policy = self._policy.retry
        if destination.retry_schedule_s is not None:
            policy = msgspec.structs.replace(policy, schedule_s=destination.retry_schedule_s)
        return retry.next_wait_s(policy, tried=delivery.progress.attempts_in_schedule, reply=reply)

    def _headers(
        self, delivery: DeliveryAttemptRequest, destination: Destination, signed: SignedHeaders
    ) -> dict[str, str]:
        headers = {
            **destination.headers,
            **common_headers(delivery, self._policy.user_agent),
            "webhook-id": delivery.id,
            "webhook-timestamp": signed.timestamp,
            "webhook-signature": signed.signature,
        }
        if destination.forward_trace and delivery.progress.trace:
            headers[subjects.HEADER_TRACE] = delivery.progress.trace
        return headers

    def _without_secret(self, attempt: DeliveryAttempt, failed: type[SecretError]) -> AttemptResult:
        if not failed.retryable:
            return self._unsent(attempt, Outcome.FAILED, failed.code)
        progress, schedule_s = attempt.delivery.progress, self._policy.secret_retry_schedule_s
        since_first = attempt.started_at - (progress.first_attempt_at or attempt.started_at)
        # What was given up on long ago, and is replayed, has not waited for its secret all the while.
        waited_s = min(since_first.total_seconds(), 2 * retry.total_wait_s(schedule_s, progress.secret_waits))
        wait_s = retry.secret_wait_s(
            schedule_s, waits=progress.secret_waits, waited_s=waited_s, jitter=self._policy.retry.jitter
        )
        ended = Outcome.FAILED if wait_s is None else Outcome.RETRY_SCHEDULED
        return self._unsent(attempt, ended, failed.code, wait_s)

    def _unsent(
        self, attempt: DeliveryAttempt, ended: Outcome, code: Code, wait_s: float | None = None
    ) -> AttemptResult:
        attempt.end()
        delivery = attempt.delivery
        return AttemptResult(
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=delivery.progress.attempt,
            outcome=ended,
            code=code,
            started_at=attempt.started_at,
            duration_ms=attempt.duration_ms,
            worker=self._worker,
            next_attempt_at=_after(attempt, wait_s),
            replay=delivery.progress.replay,
        )


def _shown(reply: WebhookResponse, destination: Destination, signed: SignedHeaders) -> str:
    """What was answered, without what we sent as credentials."""
    known = [signature.partition(",")[2] for signature in signed.signature.split()]
    known += response_redaction.credential_candidates_in_url(destination.url)
    for value in destination.headers.values():
        known += response_redaction.credential_candidates_in_header(value)
    return response_redaction.redact_response(reply.body, known=known)


def _after(attempt: DeliveryAttempt, wait_s: float | None) -> datetime | None:
    return None if wait_s is None else attempt.ended_at + timedelta(seconds=wait_s)


@functools.lru_cache(maxsize=4096)
def _host(url: str) -> str | None:
    return urlsplit(url).hostname
