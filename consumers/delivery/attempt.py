"""Delivery attempts: their clocks, and their results."""

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from consumers.delivery.response_redaction import redact_response, values_of_destination
from consumers.http_client.response import WebhookResponse
from consumers.model.request import DeliveryAttemptRequest
from consumers.retries.policy import RetrySpread, next_wait_s, secret_wait_s, total_wait_s
from consumers.signatures.signer import SignedHeaders
from provider.errors import SecretError
from provider.signing_secret import SigningSecret
from schemas.codes import Code, Outcome
from schemas.configuration import Destination, RetryPolicy
from schemas.events import AttemptResult


class DeliveryAttempt:
    """An attempt that starts when it is created. Each clock is read once at its start and once at its end."""

    def __init__(self, delivery: DeliveryAttemptRequest) -> None:
        self.delivery = delivery
        self.started_monotonic_s = time.monotonic()
        self.started_s = self.ended_s = time.time()
        """Unix seconds; `started_at` and `ended_at` are the same moments."""
        self.started_at = self.ended_at = datetime.fromtimestamp(self.started_s, UTC)
        self.duration_s = self.duration_ms = 0.0
        self.resolved_s: float | None = None
        """Seconds until the secret was resolved; None without one."""

    def end(self) -> None:
        """Read the clocks at the end of the attempt."""
        self.duration_s = time.monotonic() - self.started_monotonic_s
        self.duration_ms = int(self.duration_s * 1_000_000 + 0.5) / 1000  # cheaper than `round`
        self.ended_s = time.time()
        self.ended_at = datetime.fromtimestamp(self.ended_s, UTC)


class ResultBuilder:
    """Builds the results of one worker's attempts. The retry policy decides when the next attempt is due."""

    __slots__ = ("_now", "_retry", "_secret_schedule_s", "_spread", "_worker")

    def __init__(
        self,
        worker: str,
        retry: RetryPolicy,
        secret_schedule_s: tuple[float, ...],
        spread: RetrySpread,
        now: Callable[[], datetime],
    ) -> None:
        """`now` returns the time by the clock of the server that fires the schedules."""
        self._worker = worker
        self._retry = retry
        self._secret_schedule_s = secret_schedule_s
        self._spread = spread
        self._now = now

    def after_reply(
        self,
        attempt: DeliveryAttempt,
        destination: Destination,
        signed: SignedHeaders,
        secret: SigningSecret,
        reply: WebhookResponse,
    ) -> AttemptResult:
        """Return the result of an attempt that was sent."""
        attempt.end()
        delivery, state = attempt.delivery, attempt.delivery.retry_state
        is_delivered = reply.code is Code.HTTP_2XX
        due_at = None if is_delivered else self._due_at(delivery, destination, reply)
        result = AttemptResult(  # fifteen arguments: for more, Python allocates a dict
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=state.attempt,
            outcome=(
                Outcome.DELIVERED if is_delivered else Outcome.FAILED if due_at is None else Outcome.RETRY_SCHEDULED
            ),
            code=reply.code,
            started_at=attempt.started_at,
            duration_ms=attempt.duration_ms,
            worker=self._worker,
            http_status=reply.http_status,
            request_bytes=len(delivery.body),
            response_bytes=reply.response_bytes,
            signed_with=signed.slots,
            secret_version=secret.version,
            url_host=_host(destination.url),
        )
        if is_delivered and state.replay is None and not destination.capture_response:
            return result
        return msgspec.structs.replace(
            result,
            retry_after_s=reply.retry_after_s,
            next_attempt_at=due_at,
            replay=state.replay,
            response_body=(_redact_body(reply, destination, signed, secret) if destination.capture_response else None),
        )

    def without_secret(self, attempt: DeliveryAttempt, error: type[SecretError]) -> AttemptResult:
        """Return the result of an attempt whose secret could not be resolved."""
        if not error.retryable:
            return self.without_request(attempt, Outcome.FAILED, error.code)
        state, schedule_s = attempt.delivery.retry_state, self._secret_schedule_s
        since_first = attempt.started_at - (state.first_attempt_at or attempt.started_at)
        # A replay of an old delivery has not waited for its secret since the first attempt.
        waited_s = min(since_first.total_seconds(), 2 * total_wait_s(schedule_s, state.secret_waits))
        wait_s = secret_wait_s(schedule_s, waits=state.secret_waits, waited_s=waited_s, jitter=self._retry.jitter)
        outcome = Outcome.FAILED if wait_s is None else Outcome.RETRY_SCHEDULED
        return self.without_request(attempt, outcome, error.code, wait_s)

    def without_request(
        self, attempt: DeliveryAttempt, outcome: Outcome, code: Code, wait_s: float | None = None
    ) -> AttemptResult:
        """Return the result of an attempt that was not sent; the next one is due after `wait_s`, if any."""
        attempt.end()
        delivery = attempt.delivery
        return AttemptResult(
            delivery=delivery.id,
            destination=delivery.destination,
            event_type=delivery.event_type,
            attempt=delivery.retry_state.attempt,
            outcome=outcome,
            code=code,
            started_at=attempt.started_at,
            duration_ms=attempt.duration_ms,
            worker=self._worker,
            next_attempt_at=(None if wait_s is None else self._spread.due_after(delivery.tenant, wait_s, self._now())),
            replay=delivery.retry_state.replay,
        )

    def _due_at(
        self, delivery: DeliveryAttemptRequest, destination: Destination, reply: WebhookResponse
    ) -> datetime | None:
        policy, now = self._retry, self._now()
        if destination.retry_schedule_s is not None:
            policy = msgspec.structs.replace(policy, schedule_s=destination.retry_schedule_s)
        wait_s = next_wait_s(policy, tried=delivery.retry_state.attempts_in_schedule, reply=reply)
        return None if wait_s is None else self._spread.due_after(delivery.tenant, wait_s, now)


def _redact_body(reply: WebhookResponse, destination: Destination, signed: SignedHeaders, secret: SigningSecret) -> str:
    """Return the response's body without the keys, and without the credentials that the request carried."""
    return redact_response(
        reply.body,
        known=[signature.partition(",")[2] for signature in signed.signature.split()],
        fragments=secret.fragments(),
        destination=values_of_destination(destination.url, tuple(destination.headers.values())),
    )


@functools.lru_cache(maxsize=4096)
def _host(url: str) -> str | None:
    return urlsplit(url).hostname
