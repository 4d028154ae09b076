"""How destinations answer: counted in each consumer, put together once a second, seen by all of them.

A destination that only fails is given a rest: what comes due for it waits in the server instead of in a time-out, and
then one attempt at a time, of all consumers, tries whether it is back. One that asks for less (429) is left alone for
as long as it says. One that is gone (410), or has not taken anything for five days, is disabled. All of that is kept in
a bucket with revisions, so that each change of it is told by one consumer.
"""

import asyncio
import collections
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import msgspec
import structlog

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
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
FLUSH_S: Final = 1.0
SUCCESS_FLUSH_INTERVAL: Final = timedelta(minutes=1)
DEFAULT_THROTTLE_S: Final = 10.0
"""How long a 429 without Retry-After is heeded."""
HALF_OPEN_LEASE: Final = timedelta(seconds=45)
"""How long a trial is one consumer's, should it die meanwhile: longer than any attempt, and the telling of it."""

_log = structlog.get_logger(__name__)


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a destination is given a rest, and when it is given up."""

    failures: int = 10
    """Consecutive failures before a rest."""
    failing_for: timedelta = timedelta(seconds=10)
    """And for how long there has been no success, so that a burst that fails at once is no verdict."""
    open_for: timedelta = timedelta(seconds=5)
    """The first rest; each further one in a row is twice as long."""
    max_open_for: timedelta = timedelta(minutes=5)
    warn_every: timedelta = timedelta(days=1)
    disable_after: timedelta = timedelta(days=5)


class DisableDestination(Protocol):
    """Disables a destination, if it still has this URL."""

    async def __call__(self, tenant: str, destination: str, *, url: str, reason: str) -> None: ...


class HealthDelta:
    """What one consumer saw of a destination since it last told."""

    __slots__ = ("code", "failures", "first_failure_at", "last_failure_at", "last_success_at", "throttled_until", "url")

    def __init__(self) -> None:
        self.failures = 0
        """Since the last success."""
        self.first_failure_at: datetime | None = None
        self.last_failure_at: datetime | None = None
        self.last_success_at: datetime | None = None
        self.throttled_until: datetime | None = None
        self.code: Code | None = None
        self.url = ""

    def record_success(self, now: datetime) -> None:
        """A delivery was taken."""
        self.failures = 0
        self.first_failure_at = None
        self.last_success_at = now

    def record_failure(self, now: datetime, reply: WebhookResponse, url: str) -> None:
        """An attempt failed."""
        self.failures += 1
        self.first_failure_at = self.first_failure_at or now
        self.last_failure_at = now
        self.code = reply.code
        self.url = url
        if reply.code is Code.HTTP_429:
            wait_s = min(reply.retry_after_s or DEFAULT_THROTTLE_S, MAX_RETRY_AFTER_S)
            self.throttled_until = now + timedelta(seconds=wait_s)


def apply_health_delta(health: Health, tally: HealthDelta, policy: HealthPolicy, now: datetime) -> Health:
    """What is known together with what was seen. Pure."""
    if tally.last_success_at is not None:
        health = Health(last_success_at=tally.last_success_at, last_failure_at=health.last_failure_at)
    if tally.failures:
        health = msgspec.structs.replace(
            health,
            consecutive_failures=health.consecutive_failures + tally.failures,
            failing_since=health.failing_since or tally.first_failure_at,
            last_failure_at=tally.last_failure_at,
            last_code=tally.code,
            trial_by=None,
            trial_until=None,
        )
        health = _rested(health, policy, now)
    if tally.throttled_until is not None and tally.throttled_until > (health.open_until or now):
        health = msgspec.structs.replace(health, open_until=tally.throttled_until)
    return health


def _rested(health: Health, policy: HealthPolicy, now: datetime) -> Health:
    failing_for = now - (health.failing_since or now)
    rests_already = health.open_until is not None and health.open_until > now
    if health.consecutive_failures < policy.failures or failing_for < policy.failing_for or rests_already:
        return health
    rest = min(policy.open_for * 2 ** min(health.openings, 16), policy.max_open_for)
    return msgspec.structs.replace(health, open_until=now + rest, openings=health.openings + 1)


class DestinationHealth:
    """Hears how attempts end, and says whether a destination should be left alone for now."""

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
        self._shelf = KvCache(self._rows)
        self._shelf.on_update = self._on_update
        self._on_change: Callable[[str], None] = lambda _: None
        self.not_closed: set[str] = set()
        """`<tenant>.<id>` of each destination that has been given a rest and has not succeeded since: not everyone may
        attempt it at any time."""
        self._publisher = publisher
        self._disable = disable
        self._policy = policy
        self._worker = worker
        self._clock = clock
        self._tallies: collections.defaultdict[str, HealthDelta] = collections.defaultdict(HealthDelta)

    async def run(self, stop: asyncio.Event) -> None:
        """Tell what was seen, once a second, until `stop` is set."""
        await self._shelf.start()
        await run_every(FLUSH_S, self.flush, stop, failure_event="health.flush_failed")
        with contextlib.suppress(JetStreamError):
            await self.flush()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with `<tenant>.<id>` of each destination whose health has changed."""
        self._on_change = callback

    def _on_update(self, key: str, _old: Health | None, new: Health | None) -> None:
        if new is not None and (new.open_until is not None or _is_on_trial(new)):
            self.not_closed.add(key)
        else:
            self.not_closed.discard(key)
        self._on_change(key)

    def open_for_s(self, tenant: str, destination: str) -> float | None:
        """For how many seconds more the destination is to be left alone, or None."""
        health = self._shelf.peek(f"{tenant}.{destination}")
        if health is None or health.open_until is None:
            return None
        left_s = (health.open_until - self._clock()).total_seconds()
        return left_s if left_s > 0 else None

    def is_half_open(self, lane: str) -> bool:
        """Whether the destination `<tenant>.<id>` has had its rest and has not succeeded since: one at a time, then."""
        health = self._shelf.peek(lane)
        return health is not None and _is_on_trial(health)

    async def acquire_half_open_probe(self, lane: str) -> bool:
        """Whether an attempt on the destination `<tenant>.<id>`, which is on trial, may be made now, and by us.

        The trial is taken in the bucket: of all consumers one has it, and makes one attempt at a time as long as they
        succeed. The next is for whoever takes it after the next rest.
        """
        tally = self._tallies.get(lane)
        if tally is not None and tally.failures:
            return False
        now = self._clock()
        try:
            row = await self._rows.get(lane)
            if row is None or not _is_on_trial(row.value):
                return True
            health = row.value
            if _is_after(health.open_until, now) or (
                health.trial_by != self._worker and _is_after(health.trial_until, now)
            ):
                return False
            taken = msgspec.structs.replace(health, trial_by=self._worker, trial_until=now + HALF_OPEN_LEASE)
            await self._rows.put(lane, taken, revision=row.revision)
        except JetStreamError:  # somebody else was quicker, or it can't be known
            return False
        return True

    def count(self) -> tuple[int, int]:
        """How many destinations, as far as this consumer knows, have a rest, and are tried one at a time after it."""
        now = self._clock()
        resting = trying = 0
        for health in self._shelf.values():
            if health.open_until is not None and health.open_until > now:
                resting += 1
            elif health.openings > 0 and health.consecutive_failures > 0:
                trying += 1
        return resting, trying

    def record_reply(self, lane: str, url: str, reply: WebhookResponse, now: datetime) -> None:
        """An attempt on the destination `<tenant>.<id>` was made, and has just ended so. Cheap when it succeeded."""
        tally = self._tallies[lane]
        if reply.code is Code.HTTP_2XX:
            tally.record_success(now)
        else:
            tally.record_failure(now, reply, url)

    async def flush(self) -> None:
        """Put what was seen together with what is known, and act on it."""
        tallies, self._tallies = self._tallies, collections.defaultdict(HealthDelta)
        for key, tally in tallies.items():
            if self._is_news(key, tally):
                await self._tell(key, tally)

    def _is_news(self, key: str, tally: HealthDelta) -> bool:
        if tally.failures or tally.throttled_until:
            return True
        known = self._shelf.peek(key) or Health()
        if known.consecutive_failures or known.last_success_at is None:
            return True
        return self._clock() - known.last_success_at >= SUCCESS_FLUSH_INTERVAL

    async def _tell(self, key: str, tally: HealthDelta) -> None:
        before, now = Health(), self._clock()

        def merge(stored: Health | None) -> Health:
            nonlocal before
            before = stored or Health()
            after = apply_health_delta(before, tally, self._policy, now)
            return msgspec.structs.replace(after, warnings=max(after.warnings, self._warnings(after, now)))

        row = await self._rows.update(key, merge)
        await self._act(key, tally, before, row.value, now)

    def _warnings(self, health: Health, now: datetime) -> int:
        return 0 if health.failing_since is None else (now - health.failing_since) // self._policy.warn_every

    async def _act(self, key: str, tally: HealthDelta, before: Health, after: Health, now: datetime) -> None:
        tenant, _, destination = key.partition(".")
        if after.openings > before.openings:
            _log.warning("destination.resting", tenant=tenant, destination=destination, until=str(after.open_until))
        if tally.code is Code.HTTP_410 and tally.failures:
            await self._disable(tenant, destination, url=tally.url, reason="the receiver answered 410 Gone")
        elif after.failing_since is not None and now - after.failing_since >= self._policy.disable_after:
            days = self._policy.disable_after.days
            await self._disable(tenant, destination, url=tally.url, reason=f"it has failed for {days} days")
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


def _is_on_trial(health: Health) -> bool:
    return health.openings > 0 and health.consecutive_failures > 0


def _is_after(time: datetime | None, now: datetime) -> bool:
    return time is not None and time > now
