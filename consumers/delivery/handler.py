"""The delivery handler: decode a request, load its route and secret, sign, send, and return what must be stored.

There is one implementation of each step. `try_start` runs straight through when everything needed is in memory. A call
loads what is missing, and then runs the same steps.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol

import msgspec
import structlog

from consumers.attempts.log import AttemptLog, DeliveryHistory, result_of
from consumers.credentials.checker import SecretObserver
from consumers.delivery import effects
from consumers.delivery.attempt import DeliveryAttempt, ResultBuilder
from consumers.delivery.head_state import HeadState, HeadStateCache
from consumers.delivery.id_check import NamedIdCheck, needs_check
from consumers.delivery.route_cache import DeliveryRoute, RouteCache
from consumers.destinations.directory import ConfigurationDirectory
from consumers.destinations.health import DestinationHealth
from consumers.destinations.hourly_stats import HourlyStatsRecorder
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.response import NOT_BEGUN, WebhookResponse
from consumers.model.request import DeliveryAttemptRequest
from consumers.retention.archive import ArchiveBatcher
from consumers.retries.policy import RetrySpread
from consumers.retries.server_clock import ServerClock
from consumers.signatures.signer import SignedHeaders, sign
from consumers.worker.disposition import Disposition, HandlerResult, Requeue, quarantine_publication
from messaging.client.term import TermExpired, clock
from messaging.management import NANOSECONDS
from messaging.message import Message
from messaging.publication import Publication
from provider.cache.provider import CachedSecretProvider
from provider.errors import SecretError
from provider.signing_secret import SigningSecret
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.configuration import DEFAULT_RETRY_SCHEDULE_S, RetryPolicy
from schemas.events import AttemptResult
from schemas.headers import (
    HEADER_CHECKED,
    HEADER_CLAIM,
    HEADER_DUE,
    HEADER_MSG_ID,
    HEADER_ORIGINAL,
    HEADER_SINCE,
    late_claim,
)

HALF_OPEN_RETRY_S: Final = 2.0
"""Deferral of a delivery while another attempt probes its half-open circuit breaker."""
MIN_DEFERRAL_JITTER_S: Final = 1.0
"""Shortest time over which the deliveries deferred by an open circuit breaker come back."""
ORIGINAL_S: Final = 2.0
"""Time after which a shed copy comes again whose original is still there."""
SUSPECT_S: Final = 60.0
"""Time after a reconnect for which messages that are called new are looked up."""
SECRET_RETRY_SCHEDULE_S: Final = (30.0, 60.0, 300.0, 900.0, 3600.0)
_SINCE: Final = HEADER_SINCE.encode()
_DUE: Final = HEADER_DUE.encode()
_ORIGINAL: Final = HEADER_ORIGINAL.encode()
_NAMED: Final = HEADER_MSG_ID.encode()
_CHECKED: Final = HEADER_CHECKED.encode()
_CLAIM: Final = HEADER_CLAIM.encode()

_log = structlog.get_logger(__name__)


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults for destinations that do not set their own."""

    timeout_s: float = 15
    max_payload_bytes: int = 256 * 1024
    retry: RetryPolicy = RetryPolicy(schedule_s=DEFAULT_RETRY_SCHEDULE_S)
    retries_per_s: int = 1000
    secret_retry_schedule_s: tuple[float, ...] = SECRET_RETRY_SCHEDULE_S
    secret_namespace: str | None = None
    user_agent: str = "OneProtect-Delivery"


class AttemptObserver(Protocol):
    """An observer of every attempt."""

    def on_attempt(self, attempt: DeliveryAttempt, result: AttemptResult) -> None:
        """Observe an attempt that ended, or was found on record (`suppressed`). Must be cheap."""
        ...


class DeliveryHandler:
    """Handles requests from the streams. Returns what must be stored before a request may be acknowledged."""

    def __init__(
        self,
        *,
        directory: ConfigurationDirectory,
        provider: CachedSecretProvider,
        sender: HttpWebhookSender,
        attempt_log: AttemptLog,
        secret_observer: SecretObserver,
        health: DestinationHealth,
        hourly_stats: HourlyStatsRecorder,
        heads: HeadStateCache,
        policy: DeliveryPolicy,
        clock: ServerClock,
        worker: str,
        observer: AttemptObserver,
        archive: ArchiveBatcher,
        ids: NamedIdCheck | None = None,
    ) -> None:
        """`ids`: checks the ids that trusted publishers name, if they are remembered."""
        self._ids = ids
        self._provider = provider
        self._sender = sender
        self._attempt_log = attempt_log
        self._secret_observer = secret_observer
        self._health = health
        self._hourly_stats = hourly_stats
        self._heads = heads
        self._policy = policy
        self._observer = observer
        self._archive = archive
        self._clock = clock
        self.spread = RetrySpread(policy.retries_per_s)
        self._results = ResultBuilder(worker, policy.retry, policy.secret_retry_schedule_s, self.spread, clock.now)
        self._routes = RouteCache(directory, policy.secret_namespace)
        self.deferrals = 0
        """Requests deferred because their destination's circuit breaker was open."""
        self.quarantines = 0
        """Requests that could not be decoded."""
        self.repeated_attempts = 0
        """Attempts of which another consumer had recorded a result."""
        self.suspect_before_ns = 0
        """A message that was stored before this time may have been handled, although the server says it is new."""

    def try_start(self, message: Message, on_result: Callable[[HandlerResult], None]) -> Callable[[], None] | None:
        """Start a delivery without a coroutine if everything it needs is in memory, as is usual.

        Args:
            message: The request, unsettled.
            on_result: Called once, later than this returns, with what must be stored or with an unforeseen error.

        Returns:
            A function that abandons the delivery, or None if nothing was started: then await a call.

        Raises:
            TermExpired: Another process may have the message.
        """
        if clock() >= message.term.until:
            raise TermExpired
        lane = message.lane
        if (
            message.deliveries > 1
            or message.stored_ns < self.suspect_before_ns
            or message.stream == streams.ORDERED.name
            or _SINCE in message.header_block
            or lane in self._health.not_closed
            or (self._ids is not None and _may_need_check(message))
        ):
            return None
        try:
            delivery = self._decode(message)
        except ValueError:
            return None
        attempt = DeliveryAttempt(delivery)
        route = self._routes.find(lane, attempt.started_monotonic_s)
        if route is None or not route.is_direct or route.secret_ref is None:
            return None
        secret = self._provider.find_cached(route.secret_ref, tenant=delivery.tenant, purpose=route.purpose)
        return None if secret is None else self._send(attempt, route, secret, on_result)

    async def on_server_change(self) -> None:
        """Implement `distrust_counts` for a connection to another server, or to a restarted one."""
        self.distrust_counts()

    def distrust_counts(self) -> None:
        """Look for results of messages that are stored already: a server that leads now may not know their counts.

        What was delivered before, it delivers first, so a while is enough.
        """
        self.suspect_before_ns = before_ns = self._clock.now_ns()

        def trust_again() -> None:
            if self.suspect_before_ns == before_ns:
                self.suspect_before_ns = 0

        asyncio.get_running_loop().call_later(SUSPECT_S, trust_again)

    async def __call__(self, message: Message) -> Disposition:
        """Handle a request, and wait for what is not in memory. Raises `TermExpired`, or an unforeseen error."""
        message.require_term()
        try:
            delivery = self._decode(message)
        except ValueError as error:
            self.quarantines += 1
            return (quarantine_publication(message, Code.EVENT_INVALID, str(error)),)
        refusal: Disposition | None = None
        if self._ids is not None and needs_check(delivery):  # first: the results on record may be of another body
            refusal = await self._refuse_named(delivery, self._ids)
            message.require_term()
            if refusal:
                return refusal
        known = await self._settle_known(delivery)
        if known is not None or refusal is not None:
            return () if known is None else known
        if not delivery.is_ping:
            open_s = await self._find_open_s(delivery)
            message.require_term()
            if open_s is not None:
                return self._defer(delivery, open_s)
        return await self._load_and_send(DeliveryAttempt(delivery))

    def _decode(self, message: Message) -> DeliveryAttemptRequest:
        if _DUE in message.header_block and message.stream == streams.RETRIES.name and message.deliveries == 1:
            with contextlib.suppress(ValueError):
                self.spread.note_fired(float(message.headers[HEADER_DUE]), message.stored_ns / 1e9)
        return DeliveryAttemptRequest.from_message(message, max_payload_bytes=self._policy.max_payload_bytes)

    def _may_be_known(self, message: Message) -> bool:
        """Return whether the message may have been handled before. An ordered queue looks itself, and says so."""
        if message.stored_ns < self.suspect_before_ns:
            message.deliveries = max(message.deliveries, 2)
        is_redelivered = message.deliveries > 1 and message.stream != streams.ORDERED.name
        return is_redelivered or _SINCE in message.header_block

    async def _settle_known(self, delivery: DeliveryAttemptRequest) -> Disposition | None:
        """Return what is left to store for a request that was handled before, or None if nothing of it is recorded."""
        message = delivery.message
        is_copy = _ORIGINAL in message.header_block and not delivery.is_ordered
        if is_copy and await self._attempt_log.has_original(delivery):
            return Requeue(delay_s=ORIGINAL_S)
        if not self._may_be_known(message):
            return None
        history = await self._attempt_log.read_history(delivery)
        recorded = result_of(history.results, delivery.retry_state)
        if recorded is None:
            return () if history.is_superseded else None
        attempt = DeliveryAttempt(delivery)
        self._observer.on_attempt(attempt, msgspec.structs.replace(recorded, outcome=Outcome.SUPPRESSED))
        left = self._for_recorded(delivery, recorded, history)
        return (effects.suppressed(delivery, recorded, attempt.ended_at), *left)

    async def settle_again(
        self, message: Message, publications: tuple[Publication, ...], *, is_known: bool, is_first: bool = True
    ) -> Disposition:
        """Return what is left to store of `publications`, of which one is stored already, perhaps, or a newer one.

        Either this process stored it, and the acknowledgement was lost, or another one handled the request, too.
        Then its result decides, as it came first, unless only this attempt was successful.

        Args:
            message: The request.
            publications: What followed from its attempt.
            is_known: The server answered that it knows the id of one of them.
            is_first: This is the first look after the attempt.

        Raises:
            JetStreamError: Nothing is known.
        """
        if subjects.kind_of(publications[0].subject) == "quarantined":
            return ()
        delivery = self._decode(message)
        history = await self._attempt_log.read_history(delivery)
        recorded, own = result_of(history.results, delivery.retry_state), effects.result_in(publications)
        if is_first and own is not None:
            self._note_repeated(delivery, own, history.results)
        late: tuple[Publication, ...] = ()
        if own is not None and _counts_beside(own, recorded) and own not in history.results:
            at = own.started_at + timedelta(milliseconds=own.duration_ms)
            late, recorded = (effects.record(delivery, own, at, suffix=f".m{message.sequence}"),), own
        if recorded is None:  # a deferral has no result
            seen = () if history.is_superseded else publications
            left = tuple(effects.replacing(one, delivery, history) for one in seen)
        else:
            left = self._for_recorded(delivery, recorded, history)
        if delivery.is_ordered and recorded is not None and recorded.outcome is Outcome.RETRY_SCHEDULED:
            self._heads.take(message.lane, message)  # the log has its state
            return Requeue(late)
        return (*late, *(map(effects.without_id, left) if is_known else left))

    def _note_repeated(
        self, delivery: DeliveryAttemptRequest, own: AttemptResult, results: Sequence[AttemptResult]
    ) -> None:
        """Count and log an attempt that was made twice: the server may have dropped the second result."""
        other = next((result for result in results if _is_repeated(own, result)), None)
        if other is None:
            return
        self.repeated_attempts += 1
        _log.warning(
            "attempt.repeated",
            tenant=delivery.tenant,
            destination=delivery.destination,
            delivery=delivery.id,
            attempt=own.attempt,
            code=own.code.value,
            worker=own.worker,
            recorded_code=other.code.value,
            recorded_by=other.worker,
        )

    def _for_recorded(
        self, delivery: DeliveryAttemptRequest, recorded: AttemptResult, history: DeliveryHistory
    ) -> tuple[Publication, ...]:
        return effects.for_recorded(delivery, recorded, history, archived=self._archive.is_open)

    async def _refuse_named(self, delivery: DeliveryAttemptRequest, ids: NamedIdCheck) -> Disposition | None:
        """Return what to do with a delivery whose id was used before, or None. The claim names its last place."""
        route = await self._routes.load(delivery.message.lane)
        if route is not None and route.destination.ordering == "fifo" and not delivery.is_ordered:
            return Requeue()  # for the destination's ordered queue
        return await ids.refuse(delivery)

    async def _find_open_s(self, delivery: DeliveryAttemptRequest) -> float | None:
        """Return for how many seconds the circuit breaker holds `delivery` back, or None if it may be sent."""
        open_s = self._health.open_for_s(delivery.tenant, delivery.destination)
        lane = delivery.message.lane
        if open_s is not None or not self._health.is_half_open(lane):
            return open_s
        # The head of an ordered queue is its destination's only attempt, and needs no lease to probe it.
        may_probe = delivery.is_ordered or await self._health.acquire_half_open_probe(lane)
        return None if may_probe else HALF_OPEN_RETRY_S

    def _defer(self, delivery: DeliveryAttemptRequest, open_s: float) -> Disposition:
        if delivery.is_ordered:
            return Requeue()  # the head of an ordered queue stays where it is
        self.deferrals += 1
        jitter_s = random.uniform(0, max(MIN_DEFERRAL_JITTER_S, open_s / 2))  # noqa: S311 - not for security
        until = self.spread.due_after(delivery.tenant, open_s + jitter_s, self._clock.now())
        return (effects.deferral(delivery, until),)

    async def _load_and_send(self, attempt: DeliveryAttempt) -> Disposition:
        message = attempt.delivery.message
        route = await self._routes.load(message.lane)
        message.require_term()
        if route is None:
            return self._finish_without_request(attempt, Outcome.FAILED, Code.DESTINATION_NOT_FOUND)
        destination = route.destination
        if destination.ordering == "fifo" and not attempt.delivery.is_ordered:
            return Requeue()  # for the destination's ordered queue
        if not destination.enabled:
            return self._finish_without_request(attempt, Outcome.SKIPPED, Code.DESTINATION_DISABLED)
        try:
            secret = await self._resolve_secret(attempt.delivery.tenant, route)
        except SecretError as error:
            failed = type(error)
            message.require_term()
        else:
            message.require_term()
            return await self._send_and_wait(attempt, route, secret)
        self._secret_observer.on_secret_result(route.credential_key, failed.code)
        return self._finish(attempt, self._results.without_secret(attempt, failed))

    async def _resolve_secret(self, tenant: str, route: DeliveryRoute) -> SigningSecret:
        if route.secret_ref is None:
            raise route.secret_error
        return await self._provider.resolve(route.secret_ref, tenant=tenant, purpose=route.purpose)

    async def _send_and_wait(
        self, attempt: DeliveryAttempt, route: DeliveryRoute, secret: SigningSecret
    ) -> Disposition:
        ended: asyncio.Future[HandlerResult] = asyncio.get_running_loop().create_future()

        def on_result(result: HandlerResult) -> None:
            if not ended.done():  # a reply may come between a cancellation and its effect
                ended.set_result(result)

        abandon = self._send(attempt, route, secret, on_result)
        try:
            result = await ended
        except asyncio.CancelledError:
            if ended.cancelled():
                abandon()
            raise
        if isinstance(result, Exception):
            raise result
        return result

    def _send(
        self,
        attempt: DeliveryAttempt,
        route: DeliveryRoute,
        secret: SigningSecret,
        on_result: Callable[[HandlerResult], None],
    ) -> Callable[[], None]:
        """Sign and send, and call `on_result` with what must be stored. Returns a function that abandons the send."""
        delivery, destination = attempt.delivery, route.destination
        attempt.resolved_s = time.monotonic() - attempt.started_monotonic_s
        self._secret_observer.on_secret_result(route.credential_key, None, secret.version)
        signed = sign(secret, delivery=delivery.id, body=delivery.body, now=attempt.started_at)
        return self._sender.start(
            route.prepare(delivery, self._sender, self._policy.user_agent),
            lines=(
                f"webhook-id: {delivery.id}\r\nwebhook-timestamp: {signed.timestamp}\r\n"
                f"webhook-signature: {signed.signature}\r\n"
            ),
            body=delivery.body,
            timeout_s=destination.timeout_s or self._policy.timeout_s,
            capture=destination.capture_response,
            on_reply=functools.partial(self._on_reply, attempt, route, signed, secret, on_result),
            may_begin=delivery.message.is_held,
        )

    def _on_reply(
        self,
        attempt: DeliveryAttempt,
        route: DeliveryRoute,
        signed: SignedHeaders,
        secret: SigningSecret,
        on_result: Callable[[HandlerResult], None],
        reply: WebhookResponse,
    ) -> None:
        destination = route.destination
        if reply is NOT_BEGUN:
            on_result(TermExpired())
            return
        try:
            result = self._results.after_reply(attempt, destination, signed, secret, reply)
            self._health.record_reply(route.lane, destination.url, reply, attempt.ended_at)
            handled: HandlerResult = self._finish(attempt, result)
        except Exception as error:  # noqa: BLE001  the worker, which is the edge, counts and logs it
            handled = error
        on_result(handled)

    def _finish_without_request(self, attempt: DeliveryAttempt, outcome: Outcome, code: Code) -> Disposition:
        return self._finish(attempt, self._results.without_request(attempt, outcome, code))

    def _finish(self, attempt: DeliveryAttempt, result: AttemptResult) -> Disposition:
        """Report the result to the observers, and return what must be stored."""
        delivery = attempt.delivery
        self._observer.on_attempt(attempt, result)
        self._hourly_stats.record_attempt(delivery.message.lane, result, attempt.ended_s)
        if result.outcome is Outcome.RETRY_SCHEDULED and delivery.is_ordered and not delivery.is_ping:
            head = HeadState(delivery.retry_state.after_result(result), result.next_attempt_at)
            self._heads.note(delivery.tenant, delivery.destination, delivery.message, head)
            return Requeue((effects.record(delivery, result, attempt.ended_at),))
        return effects.after_attempt(delivery, result, at=attempt.ended_at, archived=self._archive.is_open)


def _may_need_check(message: Message) -> bool:
    block = message.header_block
    if _CHECKED not in block:
        return _NAMED in block
    return _CLAIM in block and late_claim(message.headers, message.stored_ns / NANOSECONDS) > 0


def _is_repeated(own: AttemptResult, other: AttemptResult) -> bool:
    """Return whether two results are of two requests, or two tries at a request, of one attempt."""
    is_same = (own.attempt, own.replay) == (other.attempt, other.replay) and own != other
    return is_same and all(
        one.outcome is not Outcome.SUPPRESSED and one.code.startswith(("http.", "net.")) for one in (own, other)
    )


def _counts_beside(own: AttemptResult, recorded: AttemptResult | None) -> bool:
    """Return whether a result is to be recorded although another consumer recorded one of the attempt, if it did."""
    if own.outcome is Outcome.SUPPRESSED:
        return False
    return recorded is None or (own.outcome is Outcome.DELIVERED and recorded.outcome is not Outcome.DELIVERED)
