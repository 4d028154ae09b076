"""The health of destinations: counted in each consumer, merged once a second, shared by all.

When every attempt on a destination fails, its circuit breaker opens: due deliveries wait in the server instead of in a
time-out. Half-open, the destination gets one attempt at a time from all consumers together. After a 429 the destination
gets no attempt for the time that it asks for. After a 410, or five days of failure, the destination is disabled. The
state is in a bucket with revisions, so one consumer publishes each change.
"""

import asyncio
import collections
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import msgspec
import structlog

from consumers.destinations.circuit_breaker import HealthDelta, HealthPolicy, apply_health_delta, is_half_open
from consumers.http_client.response import WebhookResponse
from messaging.audit_events import publish_audit_event
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.kv_cache import KvCache
from messaging.periodic import run_every
from messaging.publisher import JetStreamPublisher
from schemas.codes import Code
from schemas.configuration import Health
from schemas.events import DestinationFailing, DestinationFailingData, DestinationRecovered, DestinationRecoveredData

SOURCE: Final = "/oneprotect/consumer"
FLUSH_INTERVAL_S: Final = 1.0
SUCCESS_FLUSH_INTERVAL: Final = timedelta(minutes=1)
HALF_OPEN_LEASE: Final = timedelta(seconds=45)
"""Time for which a probe belongs to one consumer, even a dead one: longer than any attempt and its flush."""

_log = structlog.get_logger(__name__)


class DisableDestination(Protocol):
    """Disables a destination, if it still has this URL."""

    async def __call__(self, tenant: str, destination: str, *, url: str, reason: str) -> None: ...


class DestinationHealth:
    """The circuit breakers of all destinations: records attempts, and answers if one may be made now."""

    def __init__(
        self,
        *,
        bucket: KvBucket,
        publisher: JetStreamPublisher,
        disable: DisableDestination,
        policy: HealthPolicy,
        worker: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._rows = KvTable(bucket, Health)
        self._cache = KvCache(self._rows)
        self._cache.on_update = self._on_update
        self._on_change: Callable[[str], None] = lambda _: None
        self.not_closed: set[str] = set()
        """`<tenant>.<id>` of each destination whose circuit breaker is open or half-open."""
        self._publisher = publisher
        self._disable = disable
        self._policy = policy
        self._worker = worker
        self._clock = clock
        self._deltas: collections.defaultdict[str, HealthDelta] = collections.defaultdict(HealthDelta)

    async def run(self, stop: asyncio.Event) -> None:
        """Flush once a second until `stop` is set."""
        await self._cache.start()
        await run_every(FLUSH_INTERVAL_S, self.flush, stop, failure_event="health.flush_failed")
        with contextlib.suppress(JetStreamError):
            await self.flush()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with `<tenant>.<id>` of each destination whose health has changed."""
        self._on_change = callback

    def _on_update(self, key: str, _old: Health | None, new: Health | None) -> None:
        if new is not None and (new.open_until is not None or is_half_open(new)):
            self.not_closed.add(key)
        else:
            self.not_closed.discard(key)
        self._on_change(key)

    def open_for_s(self, tenant: str, destination: str) -> float | None:
        """Return the seconds until the destination's circuit breaker is no longer open; None when it is not."""
        health = self._cache.peek(f"{tenant}.{destination}")
        if health is None or health.open_until is None:
            return None
        left_s = (health.open_until - self._clock()).total_seconds()
        return left_s if left_s > 0 else None

    def is_half_open(self, lane: str) -> bool:
        """Return True if the circuit breaker of `<tenant>.<id>` was open and no attempt succeeded since."""
        health = self._cache.peek(lane)
        return health is not None and is_half_open(health)

    async def acquire_half_open_probe(self, lane: str) -> bool:
        """Return True if this consumer may attempt the half-open destination `<tenant>.<id>` now.

        One consumer acquires the probe, in the bucket. It makes one attempt at a time, until one fails. After the next
        opening, any consumer may acquire the next probe.
        """
        delta = self._deltas.get(lane)
        if delta is not None and delta.failures:
            return False
        now = self._clock()
        try:
            row = await self._rows.get(lane)
            if row is None or not is_half_open(row.value):
                return True
            health = row.value
            if _is_after(health.open_until, now) or (
                health.trial_by != self._worker and _is_after(health.trial_until, now)
            ):
                return False
            taken = msgspec.structs.replace(health, trial_by=self._worker, trial_until=now + HALF_OPEN_LEASE)
            await self._rows.put(lane, taken, revision=row.revision)
        except JetStreamError:  # another consumer was first, or the state is unknown
            return False
        return True

    def count(self) -> tuple[int, int]:
        """Return how many destinations known to this consumer have an open and a half-open circuit breaker."""
        now = self._clock()
        is_open = half_open = 0
        for health in self._cache.values():
            if health.open_until is not None and health.open_until > now:
                is_open += 1
            elif is_half_open(health):
                half_open += 1
        return is_open, half_open

    def record_reply(self, lane: str, url: str, reply: WebhookResponse, now: datetime) -> None:
        """Record an attempt on the destination `<tenant>.<id>` that has just ended, at `now` by this machine's clock.

        A failure gets the time of the clock that all consumers share: it may pause the destination for all of them.
        """
        delta = self._deltas[lane]
        if reply.code is Code.HTTP_2XX:
            delta.record_success(now)
        else:
            delta.record_failure(self._clock(), reply, url)

    async def flush(self) -> None:
        """Merge the recorded attempts into the bucket, and act on the result.

        Attempts that can't be stored now are merged later. Raises the last `JetStreamError`.
        """
        deltas, self._deltas = self._deltas, collections.defaultdict(HealthDelta)
        failed: JetStreamError | None = None
        for key, delta in deltas.items():
            if self._is_worth_flushing(key, delta):
                try:
                    await self._flush_one(key, delta)
                except JetStreamError as error:
                    failed = error
        if failed is not None:
            raise failed

    def _is_worth_flushing(self, key: str, delta: HealthDelta) -> bool:
        if delta.failures or delta.throttled_until:
            return True
        known = self._cache.peek(key) or Health()
        if known.consecutive_failures or known.last_success_at is None:
            return True
        return self._clock() - known.last_success_at >= SUCCESS_FLUSH_INTERVAL

    async def _flush_one(self, key: str, delta: HealthDelta) -> None:
        before, now = Health(), self._clock()

        def merge(stored: Health | None) -> Health:
            nonlocal before
            before = stored or Health()
            after = apply_health_delta(before, delta, self._policy, now)
            return msgspec.structs.replace(after, warnings=max(after.warnings, self._warnings(after, now)))

        try:
            row = await self._rows.update(key, merge)
        except JetStreamError:
            self._deltas[key].add_earlier(delta)
            raise
        await self._act(key, delta, before, row.value, now)

    def _warnings(self, health: Health, now: datetime) -> int:
        return 0 if health.failing_since is None else (now - health.failing_since) // self._policy.warn_every

    async def _act(self, key: str, delta: HealthDelta, before: Health, after: Health, now: datetime) -> None:
        tenant, _, destination = key.partition(".")
        if after.openings > before.openings:
            _log.warning(
                "destination.circuit_opened", tenant=tenant, destination=destination, until=str(after.open_until)
            )
        if delta.code is Code.HTTP_410 and delta.failures:
            await self._disable(tenant, destination, url=delta.url, reason="the receiver answered 410 Gone")
        elif after.failing_since is not None and now - after.failing_since >= self._policy.disable_after:
            days = self._policy.disable_after.days
            await self._disable(tenant, destination, url=delta.url, reason=f"it has failed for {days} days")
        elif after.warnings > before.warnings:
            await self._warn(tenant, destination, after)
        elif not after.consecutive_failures and (before.openings or before.warnings):
            await self._recover(tenant, destination)

    async def _warn(self, tenant: str, destination: str, health: Health) -> None:
        since = health.failing_since
        if since is None or health.last_code is None:
            return
        data = DestinationFailingData(
            destination=destination,
            failing_since=since,
            consecutive_failures=health.consecutive_failures,
            last_code=health.last_code,
            disabled_after=since + self._policy.disable_after,
        )
        event = DestinationFailing(
            specversion="1.0",
            id=f"{destination}.{since.timestamp():.0f}.{health.warnings}",
            source=SOURCE,
            time=self._clock(),
            tenant=tenant,
            data=data,
        )
        await publish_audit_event(self._publisher, "destination.failing", destination, event)

    async def _recover(self, tenant: str, destination: str) -> None:
        now = self._clock()
        event = DestinationRecovered(
            specversion="1.0",
            id=f"{destination}.{now.timestamp():.0f}",
            source=SOURCE,
            time=now,
            tenant=tenant,
            data=DestinationRecoveredData(destination=destination),
        )
        await publish_audit_event(self._publisher, "destination.recovered", destination, event)


def _is_after(time: datetime | None, now: datetime) -> bool:
    return time is not None and time > now
