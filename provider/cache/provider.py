"""Cache before a provider: snapshots are fresh for a minute, and stale for at most five while the provider is down.

The cache keeps one snapshot per Secret and checks each caller against the Secret's labels. It fails closed:
- A snapshot ages from the moment its read began, and nothing prolongs it.
- "Not found" and other certain answers evict the snapshot at once. Only an unavailable provider is bridged.
- "Denied" is read again for some seconds if the Secret could be read before: an API server that has just started
  denies everything until it has its roles.
- A refusal is at most about five seconds old, so a fixed Secret works soon. A refusal from an older snapshot is
  checked with a new read first; a caller of another tenant does not evict the owner's snapshot.
A Secret in use is refreshed in the background before it expires, so that no delivery waits for the read.
"""

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

from provider.cache.store import CacheEntry, SnapshotStore
from provider.errors import SecretDenied, SecretError, SecretUnavailable
from provider.provider import SnapshotReader
from provider.secret_ref import NamespacedName, SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.codes import Code
from schemas.ids import Purpose

REFUSAL_TTL_S: Final = 5.0
MAX_REFUSALS: Final = 1000
REFRESH_AFTER: Final = 0.8
"""Fraction of the fresh time after which a use starts a background read."""
DENIED_PAUSES_S: Final = (0.5, 1.0, 2.0, 2.0)
TOUCH_INTERVAL_S: Final = 1.0
"""Resolution of the order of use: an update at each delivery would cost too much."""

_Outcome = SecretSnapshot | type[SecretError]


@final
class CachedSecretProvider:
    """Cache of the snapshots that `reader` reads, with one read at a time for each Secret."""

    __slots__ = (
        "_clock",
        "_closed",
        "_denied_pauses_s",
        "_flights",
        "_jitter",
        "_max_stale_s",
        "_reader",
        "_reads",
        "_refusals",
        "_snapshots",
        "_ttl_s",
        "failures",
        "hits",
        "misses",
        "refreshes",
        "stale_served",
    )

    def __init__(
        self,
        reader: SnapshotReader,
        *,
        ttl_s: float = 60.0,
        max_stale_s: float = 300.0,
        max_entries: int = 2048,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
        denied_pauses_s: Sequence[float] = DENIED_PAUSES_S,
    ) -> None:
        """Start empty.

        Args:
            reader: provider behind the cache.
            ttl_s: seconds for which a snapshot is fresh, from the start of its read.
            max_stale_s: seconds for which a snapshot serves while the provider is unavailable; 0 serves nothing stale.
            max_entries: number of Secrets kept.
            clock: monotonic seconds.
            jitter: draws from a range, so that expiries spread out.
            denied_pauses_s: pauses between the reads of a Secret that could be read before and is denied now.
        """
        self._reader = reader
        self._ttl_s = ttl_s
        self._max_stale_s = max_stale_s
        self._clock = clock
        self._jitter = jitter
        self._denied_pauses_s = denied_pauses_s
        self._snapshots = SnapshotStore(max_entries)
        self._refusals: OrderedDict[NamespacedName, tuple[type[SecretError], float]] = OrderedDict()
        self._flights: dict[NamespacedName, asyncio.Future[_Outcome]] = {}
        self._reads: set[asyncio.Task[_Outcome]] = set()
        self._closed = False
        self.hits = 0
        """Secrets served fresh from memory."""
        self.misses = 0
        """Resolves that waited for a read."""
        self.refreshes = 0
        """Background reads of Secrets in use."""
        self.stale_served = 0
        """Secrets served stale while the provider was unavailable."""
        self.failures: Counter[Code] = Counter()
        """Failed reads by code."""

    async def resolve(
        self, ref: SecretRef, *, tenant: str, purpose: Purpose, allow_stale: bool = True
    ) -> SigningSecret:
        """Implement `SecretProvider.resolve`. Without `allow_stale`, an unavailable provider is never bridged."""
        found = self.find_cached(ref, tenant=tenant, purpose=purpose) or self._find_recent(ref, tenant, purpose)
        if found is None:
            outcome = await self._read(ref)
            found = (
                outcome.find_secret(ref.key, tenant=tenant, purpose=purpose)
                if isinstance(outcome, SecretSnapshot)
                else outcome
            )
        if found is SecretUnavailable and allow_stale:
            found = self._find_stale(ref, tenant, purpose)
        if isinstance(found, SigningSecret):
            return found
        raise found

    def find_cached(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret | None:
        """Return the secret if it is fresh in memory and the caller may use it, else None. Never waits."""
        now, entry = self._clock(), self._snapshots.get(ref.namespaced_name)
        if entry is None or now >= entry.fresh_until:
            return None
        found = entry.snapshot.find_secret(ref.key, tenant=tenant, purpose=purpose)
        if not isinstance(found, SigningSecret):
            return None
        self.hits += 1
        if now - entry.used_at >= TOUCH_INTERVAL_S:
            entry.used_at = now
            self._snapshots.touch(ref.namespaced_name)
        if now >= entry.refresh_at and ref.namespaced_name not in self._flights:
            self.refreshes += 1
            self._start_read(ref)
        return found

    @property
    def size(self) -> int:
        """Number of Secrets in memory."""
        return len(self._snapshots)

    @property
    def ages_s(self) -> list[float]:
        """Seconds since the read of each Secret in memory, unordered and without names."""
        now = self._clock()
        return [now - entry.began_at for entry in self._snapshots]

    def evict(self, namespace: str, name: str) -> None:
        """Drop a Secret now, for example after a key was revoked. The result of a read in progress is not kept."""
        secret = (namespace, name)
        self._snapshots.discard(secret)
        self._refusals.pop(secret, None)
        self._flights.pop(secret, None)

    def expire(self, namespace: str, name: str) -> None:
        """Let the next use read a Secret again. Only while the provider is unavailable, its copy still serves."""
        secret = (namespace, name)
        self._flights.pop(secret, None)
        self.forget_failure(namespace, name)
        if (entry := self._snapshots.get(secret)) is not None:
            entry.fresh_until = 0.0

    def forget_failure(self, namespace: str, name: str) -> None:
        """Let the next use read a Secret again unless it is usable from memory."""
        secret = (namespace, name)
        self._refusals.pop(secret, None)
        if (entry := self._snapshots.get(secret)) is not None:
            entry.refuses_until = entry.retry_at = 0.0

    def evict_all(self) -> None:
        """Drop every Secret now. Results of reads in progress are not kept."""
        self._snapshots.clear()
        self._refusals.clear()
        self._flights.clear()

    async def aclose(self) -> None:
        """Drop every Secret, cancel reads in progress, and close the provider behind the cache."""
        self._closed = True
        self.evict_all()
        for read in self._reads:
            read.cancel()
        if self._reads:
            await asyncio.wait(self._reads)
        await self._reader.aclose()

    def _find_recent(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError] | None:
        """Return what is certain without a read: a recent refusal, or a failed read a moment ago."""
        name, now = ref.namespaced_name, self._clock()
        refusal, until = self._refusals.get(name, (None, 0.0))
        if now < until:
            return refusal
        entry = self._snapshots.get(name)
        if entry is not None and now < entry.refuses_until:
            return entry.snapshot.find_secret(ref.key, tenant=tenant, purpose=purpose)
        if entry is not None and now < entry.retry_at:
            return SecretUnavailable
        return None

    def _find_stale(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError]:
        """Return the secret of a stale snapshot. A refusal by a stale snapshot is no longer certain."""
        name = ref.namespaced_name
        entry = self._snapshots.get(name)
        if entry is None:
            return SecretUnavailable
        if self._clock() >= entry.stale_until:
            self._snapshots.discard(name)
            return SecretUnavailable
        found = entry.snapshot.find_secret(ref.key, tenant=tenant, purpose=purpose)
        if not isinstance(found, SigningSecret):
            return SecretUnavailable
        self.stale_served += 1
        return found

    async def _read(self, ref: SecretRef) -> _Outcome:
        """Join the read in progress, or start one. The read survives the cancellation of its callers."""
        if self._closed:
            return SecretUnavailable
        self.misses += 1
        flight = self._flights.get(ref.namespaced_name) or self._start_read(ref)
        return await asyncio.shield(flight)

    def _start_read(self, ref: SecretRef) -> asyncio.Future[_Outcome]:
        name, loop = ref.namespaced_name, asyncio.get_running_loop()
        flight = self._flights[name] = loop.create_future()
        read = loop.create_task(self._read_outcome(ref, was_readable=self._snapshots.get(name) is not None))
        self._reads.add(read)
        read.add_done_callback(partial(self._finish_read, name, flight, self._clock()))
        return flight

    def _finish_read(
        self, name: NamespacedName, flight: asyncio.Future[_Outcome], began_at: float, read: asyncio.Task[_Outcome]
    ) -> None:
        """Keep the outcome, unless an eviction overtook the read, and pass it to all waiting callers."""
        self._reads.discard(read)
        outcome = SecretUnavailable if read.cancelled() or read.exception() is not None else read.result()
        if not isinstance(outcome, SecretSnapshot):
            self.failures[outcome.code] += 1
        if self._flights.get(name) is flight:
            del self._flights[name]
            self._keep_outcome(name, outcome, began_at)
        flight.set_result(outcome)

    def _keep_outcome(self, name: NamespacedName, outcome: _Outcome, began_at: float) -> None:
        now, soon_s = self._clock(), REFUSAL_TTL_S * self._jitter(0.8, 1.2)
        if isinstance(outcome, SecretSnapshot):
            self._refusals.pop(name, None)
            fresh_s = self._ttl_s * self._jitter(0.8, 1.0)
            entry = CacheEntry(
                outcome,
                began_at=began_at,
                fresh_s=fresh_s,
                stale_s=self._max_stale_s,
                refuses_s=soon_s,
                refresh_s=fresh_s * REFRESH_AFTER,
            )
            self._snapshots.put(name, entry, now=now)
        elif outcome is not SecretUnavailable:
            self._snapshots.discard(name)
            self._refusals[name] = (outcome, now + soon_s)
            if len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)
        elif (known := self._snapshots.get(name)) is not None:
            known.retry_at = now + soon_s
            known.refresh_at = max(known.refresh_at, known.retry_at)

    async def _read_outcome(self, ref: SecretRef, *, was_readable: bool) -> _Outcome:
        outcome = await _read_once(self._reader, ref)
        for pause_s in self._denied_pauses_s if was_readable else ():
            if outcome is not SecretDenied:
                break
            await asyncio.sleep(pause_s * self._jitter(0.8, 1.2))
            outcome = await _read_once(self._reader, ref)
        return outcome


async def _read_once(reader: SnapshotReader, ref: SecretRef) -> _Outcome:
    # Errors become values: one exception object raised to many callers would carry all their tracebacks.
    try:
        return await reader.read(ref)
    except SecretError as error:
        return type(error)
