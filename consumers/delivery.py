"""The delivery handler: decode, destination, secret, sign, send, and say how it ended."""

import functools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from consumers import captured, outcome, retry
from consumers.activity import DestinationActivity
from consumers.credentials import SecretWatch
from consumers.directory import Directory
from consumers.heads import Heads, Standing
from consumers.health import DestinationHealth
from consumers.history import History
from consumers.quarantine import quarantined
from consumers.request import Delivery
from consumers.sender import Reply, Sender
from consumers.settlement import Again, Settlement
from consumers.signing import Signed, sign
from consumers.ways import Ways, same_headers
from oneprotect.jetstream.pull import Message
from provider.base import SecretProvider
from provider.errors import SecretError, SecretNotFound
from provider.ref import SecretRef
from provider.value import SigningSecret
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.config import DEFAULT_RETRY_SCHEDULE_S, Credential, Destination, RetryPolicy
from schemas.events import AttemptResult
from schemas.ids import Purpose

TRIAL_PAUSE_S: Final = 2.0
"""How long what is due waits while another attempt tries whether its destination is back."""
MIN_SPREAD_S: Final = 1.0
"""Over how much time, at least, the work of a rested destination comes back."""
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

    def attempted(self, delivery: Delivery, result: AttemptResult, clock: "Clock") -> None:
        """An attempt ended so, or was found on record (`suppressed`). Must be cheap."""
        ...


class Secrets(SecretProvider, Protocol):
    """A provider with a memory."""

    def cached(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret | None:
        """The secret, if it is fresh in memory and may be had. Never waits."""
        ...


Handled = Settlement | Exception
"""What must be stored before a request may be acknowledged, or what nobody foresaw."""


class DeliveryHandler:
    """Takes a request from a stream and returns what must be stored before it may be acknowledged."""

    def __init__(
        self,
        *,
        directory: Directory,
        provider: Secrets,
        sender: Sender,
        history: History,
        watch: SecretWatch,
        health: DestinationHealth,
        activity: DestinationActivity,
        heads: Heads,
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
        self._ways = Ways(sender, policy.user_agent)
        self.deferrals = 0
        """Requests put off as their destination rests."""
        self.quarantines = 0
        """Requests that could not be understood."""
        self._is_archived = is_archived

    def begin(self, message: Message, on_end: Callable[[Handled], None]) -> Callable[[], None] | None:
        """Handle a request without a coroutine, if all that it needs is in memory, as it nearly always is.

        None if it isn't: nothing has been done then, and the request is to be handled by a call. Else returns how to
        give up, and `on_end` gets what must be stored, or what nobody foresaw.
        """
        if (
            message.deliveries > 1
            or message.stream == subjects.ORDERED.name
            or subjects.HEADER_SINCE in message.headers
        ):
            return None
        try:
            delivery = Delivery.read(message, max_payload_bytes=self._policy.max_payload_bytes)
        except ValueError:
            return None
        clock = Clock()
        found = self._directory.known(delivery.tenant, delivery.destination)
        if found is None or self._health.is_held(f"{delivery.tenant}.{delivery.destination}"):
            return None
        destination, credential = found
        if not destination.enabled or destination.ordering == "fifo":
            return None
        secret = self._known_secret(delivery.tenant, credential)
        way = self._ways.find(delivery, destination)
        if secret is None or way is None:
            return None
        clock.resolved_s = clock.elapsed_s()
        signed = sign(secret, delivery=delivery.id, body=delivery.body, now=clock.started_at)
        attempt = Attempt(delivery, clock, destination, signed, secret.version)

        def on_reply(reply: Reply) -> None:
            try:
                self._watch.noticed(delivery.tenant, destination.credential, None)
                ended: Handled = self._ended(delivery, self._result(attempt, reply), clock)
            except Exception as error:  # noqa: BLE001  for the runtime, which is the edge
                ended = error
            on_end(ended)

        return self._sender.begin(
            way,
            lines=(
                f"webhook-id: {delivery.id}\r\nwebhook-timestamp: {signed.timestamp}\r\n"
                f"webhook-signature: {signed.signature}\r\n"
            ),
            body=delivery.body,
            timeout_s=destination.timeout_s or self._policy.timeout_s,
            capture=destination.capture_response,
            on_reply=on_reply,
        )

    async def __call__(self, message: Message) -> Settlement:
        """Handle one request. Raises only what nobody foresaw."""
        try:
            delivery = Delivery.read(message, max_payload_bytes=self._policy.max_payload_bytes)
        except ValueError as error:
            self.quarantines += 1
            return (quarantined(message, Code.EVENT_INVALID, str(error)),)
        if (message.deliveries > 1 and message.stream != subjects.ORDERED.name) or (
            subjects.HEADER_SINCE in message.headers  # its line has found that it is settled
        ):
            recorded = await self._history.find(delivery)
            if recorded is not None:
                self._observe(delivery, msgspec.structs.replace(recorded, outcome=Outcome.SUPPRESSED), Clock())
                return outcome.suppressed(delivery, recorded, archived=self._is_archived())
        rest_s = self._health.wait_s(delivery.tenant, delivery.destination)
        if rest_s is None and self._health.is_on_trial(f"{delivery.tenant}.{delivery.destination}"):
            rest_s = None if await self._may_try(delivery) else TRIAL_PAUSE_S
        if rest_s is not None and not delivery.is_ping:
            return self._deferred(delivery, rest_s)
        clock = Clock()
        result = await self._attempt(delivery, clock)
        if result is None:
            return Again()
        return self._ended(delivery, result, clock)

    def _ended(self, delivery: Delivery, result: AttemptResult, clock: "Clock") -> Settlement:
        self._observe(delivery, result, clock)
        self._activity.noticed(delivery.tenant, result)
        message = delivery.message
        is_to_come_again = result.outcome is Outcome.RETRY_SCHEDULED and not delivery.is_ping
        if is_to_come_again and message.stream == subjects.ORDERED.name:
            standing = Standing(delivery.progress.after(result), result.next_attempt_at)
            self._heads.note(delivery.tenant, delivery.destination, message, standing)
            return Again(outcome.recorded(delivery, result))
        return outcome.settled(delivery, result, archived=self._is_archived())

    async def _may_try(self, delivery: Delivery) -> bool:
        """Whether this is the attempt that tries a destination on trial. A line is tried by its head, of itself."""
        if delivery.is_ping or delivery.message.stream == subjects.ORDERED.name:
            return True
        return await self._health.may_try(f"{delivery.tenant}.{delivery.destination}")

    def _deferred(self, delivery: Delivery, rest_s: float) -> Settlement:
        if delivery.message.stream == subjects.ORDERED.name:
            return Again()  # the head of a line waits where it is
        self.deferrals += 1
        spread_s = random.uniform(0, max(MIN_SPREAD_S, rest_s / 2))  # noqa: S311 - not for security
        return outcome.deferred(delivery, datetime.now(UTC) + timedelta(seconds=rest_s + spread_s))

    def _observe(self, delivery: Delivery, result: AttemptResult, clock: "Clock") -> None:
        if self._observer is not None:
            self._observer.attempted(delivery, result, clock)

    async def _attempt(self, delivery: Delivery, clock: "Clock") -> AttemptResult | None:
        """Make it, and say how it ended. None when it must come in its destination's line and has not."""
        destination = await self._directory.destination(delivery.tenant, delivery.destination)
        if destination is None:
            return self._unsent(delivery, clock, Outcome.FAILED, Code.DESTINATION_NOT_FOUND)
        if destination.ordering == "fifo" and delivery.message.stream != subjects.ORDERED.name:
            return None
        if not destination.enabled:
            return self._unsent(delivery, clock, Outcome.SKIPPED, Code.DESTINATION_DISABLED)
        try:
            secret = await self._secret(delivery.tenant, destination)
        except SecretError as error:
            failed = type(error)
        else:
            self._watch.noticed(delivery.tenant, destination.credential, None)
            return await self._send(delivery, clock, destination, secret)
        self._watch.noticed(delivery.tenant, destination.credential, failed.code)
        return self._without_secret(delivery, clock, failed)

    async def _secret(self, tenant: str, destination: Destination) -> SigningSecret:
        credential = await self._directory.credential(tenant, destination.credential)
        if credential is None:
            raise SecretNotFound
        ref = _parsed(credential.secret_ref, self._policy.secret_namespace)
        return await self._provider.resolve(ref, tenant=tenant, purpose=credential.purpose)

    def _known_secret(self, tenant: str, credential: Credential) -> SigningSecret | None:
        try:
            ref = _parsed(credential.secret_ref, self._policy.secret_namespace)
        except SecretError:
            return None
        return self._provider.cached(ref, tenant=tenant, purpose=credential.purpose)

    async def _send(
        self, delivery: Delivery, clock: "Clock", destination: Destination, secret: SigningSecret
    ) -> AttemptResult:
        clock.resolved_s = clock.elapsed_s()
        signed = sign(secret, delivery=delivery.id, body=delivery.body, now=clock.started_at)
        reply = await self._sender.send(
            destination.url,
            headers=self._headers(delivery, destination, signed),
            body=delivery.body,
            timeout_s=destination.timeout_s or self._policy.timeout_s,
            capture=destination.capture_response,
        )
        return self._result(Attempt(delivery, clock, destination, signed, secret.version), reply)

    def _result(self, attempt: "Attempt", reply: Reply) -> AttemptResult:
        delivery, destination = attempt.delivery, attempt.destination
        self._health.noticed(delivery.tenant, delivery.destination, destination.url, reply)
        wait_s = None if reply.code is Code.HTTP_2XX else self._wait_s(delivery, destination, reply)
        return AttemptResult(
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=delivery.progress.attempt,
            outcome=_outcome_of(reply, wait_s),
            code=reply.code,
            started_at=attempt.clock.started_at,
            duration_ms=attempt.clock.elapsed_ms(),
            worker=self._worker,
            http_status=reply.http_status,
            retry_after_s=reply.retry_after_s,
            next_attempt_at=_after(wait_s),
            request_bytes=len(delivery.body),
            response_bytes=reply.response_bytes,
            signed_with=attempt.signed.slots,
            secret_version=attempt.secret_version,
            replay=delivery.progress.replay,
            url_host=_host(destination.url),
            response_body=_shown(reply, destination, attempt.signed) if destination.capture_response else None,
        )

    def _wait_s(self, delivery: Delivery, destination: Destination, reply: Reply) -> float | None:
        policy = self._policy.retry
        if destination.retry_schedule_s is not None:
            policy = msgspec.structs.replace(policy, schedule_s=destination.retry_schedule_s)
        return retry.next_wait_s(policy, tried=delivery.progress.tried, reply=reply)

    def _headers(self, delivery: Delivery, destination: Destination, signed: Signed) -> dict[str, str]:
        headers = {
            **destination.headers,
            **same_headers(delivery, self._policy.user_agent),
            "webhook-id": delivery.id,
            "webhook-timestamp": signed.timestamp,
            "webhook-signature": signed.signature,
        }
        if destination.forward_trace and delivery.progress.trace:
            headers[subjects.HEADER_TRACE] = delivery.progress.trace
        return headers

    def _without_secret(self, delivery: Delivery, clock: "Clock", failed: type[SecretError]) -> AttemptResult:
        if not failed.retryable:
            return self._unsent(delivery, clock, Outcome.FAILED, failed.code)
        progress, schedule_s = delivery.progress, self._policy.secret_retry_schedule_s
        since_first = clock.started_at - (progress.first_attempt_at or clock.started_at)
        # What was given up on long ago, and is replayed, has not waited for its secret all the while.
        waited_s = min(since_first.total_seconds(), 2 * retry.planned_s(schedule_s, progress.secret_waits))
        wait_s = retry.secret_wait_s(
            schedule_s, waits=progress.secret_waits, waited_s=waited_s, jitter=self._policy.retry.jitter
        )
        ended = Outcome.FAILED if wait_s is None else Outcome.RETRY_SCHEDULED
        return self._unsent(delivery, clock, ended, failed.code, wait_s)

    def _unsent(
        self, delivery: Delivery, clock: "Clock", ended: Outcome, code: Code, wait_s: float | None = None
    ) -> AttemptResult:
        return AttemptResult(
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=delivery.progress.attempt,
            outcome=ended,
            code=code,
            started_at=clock.started_at,
            duration_ms=clock.elapsed_ms(),
            worker=self._worker,
            next_attempt_at=_after(wait_s),
            replay=delivery.progress.replay,
        )


class Attempt:
    """What a request was sent with."""

    __slots__ = ("clock", "delivery", "destination", "secret_version", "signed")

    def __init__(
        self,
        delivery: Delivery,
        clock: "Clock",
        destination: Destination,
        signed: Signed,
        secret_version: str,
    ) -> None:
        self.delivery = delivery
        self.clock = clock
        self.destination = destination
        self.signed = signed
        self.secret_version = secret_version


class Clock:
    """When an attempt began, and how long it has taken."""

    __slots__ = ("_began", "resolved_s", "started_at")

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self._began = time.perf_counter()
        self.resolved_s: float | None = None
        """How long it took until the secret was there; None without one."""

    def elapsed_s(self) -> float:
        """Seconds since the attempt began."""
        return time.perf_counter() - self._began

    def elapsed_ms(self) -> float:
        """The same in milliseconds, as results have it."""
        return round(self.elapsed_s() * 1000, 3)


def _shown(reply: Reply, destination: Destination, signed: Signed) -> str:
    """What was answered, without what we sent as credentials."""
    known = [signature.partition(",")[2] for signature in signed.signature.split()]
    known += captured.parts_of_url(destination.url)
    for value in destination.headers.values():
        known += captured.parts_of_header(value)
    return captured.shown(reply.body, known=known)


def _outcome_of(reply: Reply, wait_s: float | None) -> Outcome:
    if reply.code is Code.HTTP_2XX:
        return Outcome.DELIVERED
    return Outcome.FAILED if wait_s is None else Outcome.RETRY_SCHEDULED


def _after(wait_s: float | None) -> datetime | None:
    return None if wait_s is None else datetime.now(UTC) + timedelta(seconds=wait_s)


@functools.lru_cache(maxsize=4096)
def _parsed(ref: str, namespace: str | None) -> SecretRef:
    return SecretRef.parse(ref, central_namespace=namespace)


@functools.lru_cache(maxsize=4096)
def _host(url: str) -> str | None:
    return urlsplit(url).hostname
