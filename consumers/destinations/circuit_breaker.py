"""The circuit breaker of a destination: when it opens, for how long, and when it is half-open. Pure functions."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
from schemas.codes import Code
from schemas.configuration import Health

DEFAULT_THROTTLE_S: Final = 10.0
"""Pause after a 429 without `Retry-After`."""


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a circuit breaker opens, for how long, and when a destination is disabled."""

    failures: int = 10
    """Consecutive failures that open the circuit breaker, after `failing_for` without a success."""
    failing_for: timedelta = timedelta(seconds=10)
    """Without this minimum, one burst of failures would open the circuit breaker."""
    open_for: timedelta = timedelta(seconds=5)
    """Duration of the first opening; each further one in a row is twice as long."""
    max_open_for: timedelta = timedelta(minutes=5)
    warn_every: timedelta = timedelta(days=1)
    disable_after: timedelta = timedelta(days=5)


class HealthDelta(msgspec.Struct, gc=False):
    """Attempts that one consumer made on a destination since its last flush."""

    failures: int = 0
    """Since the last success."""
    first_failure_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_success_at: datetime | None = None
    throttled_until: datetime | None = None
    code: Code | None = None
    url: str = ""

    def record_success(self, now: datetime) -> None:
        """Record an attempt that succeeded."""
        self.failures = 0
        self.first_failure_at = None
        self.last_success_at = now

    def record_failure(self, now: datetime, reply: WebhookResponse, url: str) -> None:
        """Record an attempt that failed."""
        self.failures += 1
        self.first_failure_at = self.first_failure_at or now
        self.last_failure_at = now
        self.code = reply.code
        self.url = url
        if reply.code is Code.HTTP_429:
            wait_s = min(reply.retry_after_s or DEFAULT_THROTTLE_S, MAX_RETRY_AFTER_S)
            self.throttled_until = now + timedelta(seconds=wait_s)

    def add_earlier(self, earlier: "HealthDelta") -> None:
        """Add attempts that were made before those in this delta."""
        self.throttled_until = max(filter(None, (self.throttled_until, earlier.throttled_until)), default=None)
        if self.last_success_at is not None:
            return  # it came after the earlier failures
        self.last_success_at = earlier.last_success_at
        self.first_failure_at = earlier.first_failure_at or self.first_failure_at
        self.last_failure_at = self.last_failure_at or earlier.last_failure_at
        if not self.failures:
            self.code, self.url = earlier.code, earlier.url
        self.failures += earlier.failures


def apply_health_delta(health: Health, delta: HealthDelta, policy: HealthPolicy, now: datetime) -> Health:
    """Return `health` after the attempts in `delta`. Pure."""
    if delta.last_success_at is not None:
        health = Health(last_success_at=delta.last_success_at, last_failure_at=health.last_failure_at)
    if delta.failures:
        health = msgspec.structs.replace(
            health,
            consecutive_failures=health.consecutive_failures + delta.failures,
            failing_since=health.failing_since or delta.first_failure_at,
            last_failure_at=delta.last_failure_at,
            last_code=delta.code,
            trial_by=None,
            trial_until=None,
        )
        health = _open_if_failing(health, policy, now)
    if delta.throttled_until is not None and delta.throttled_until > (health.open_until or now):
        health = msgspec.structs.replace(health, open_until=delta.throttled_until)
    return health


def _open_if_failing(health: Health, policy: HealthPolicy, now: datetime) -> Health:
    failing_for = now - (health.failing_since or now)
    is_open = health.open_until is not None and health.open_until > now
    if health.consecutive_failures < policy.failures or failing_for < policy.failing_for or is_open:
        return health
    open_for = min(policy.open_for * 2 ** min(health.openings, 16), policy.max_open_for)
    return msgspec.structs.replace(health, open_until=now + open_for, openings=health.openings + 1)


def is_half_open(health: Health) -> bool:
    """Return whether `health` failed often enough to open, and has not succeeded since."""
    return health.openings > 0 and health.consecutive_failures > 0
