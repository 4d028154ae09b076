"""A cache before a provider: fresh for a minute, stale for at most five, and only while the provider can't be asked.

What it keeps is one snapshot per Secret, and whoever asks is checked against its labels each time. Failing closed:
- An answer ages from the moment its read began, and nothing prolongs it.
- "Not found", "denied" and the like throw away what was known at once. Only silence is bridged.
- A refusal is never older than some five seconds, so what an operator has just mended is soon seen. If it rests on an
  older snapshot, that is read anew first; who asks for another tenant's Secret takes nothing from its owner by it.
A Secret in use is read anew in the background before its minute is over, so that no delivery waits for that.
"""

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, final

from provider.cache.store import CacheEntry, Place, SnapshotStore
from provider.errors import SecretError, SecretUnavailable
from provider.secret_ref import SecretRef
from provider.signing_keys import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.codes import Code
from schemas.ids import Purpose

REFUSAL_TTL_S: Final = 5.0
MAX_REFUSALS: Final = 1000
REFRESH_AFTER: Final = 0.8
"""The part of its time as fresh after which a Secret that is in use is read anew."""
USE_EVERY_S: Final = 1.0
"""How exactly is known which Secret was used last: telling it each time would cost every delivery."""

_Outcome = SecretSnapshot | type[SecretError]


class SnapshotReader(Protocol):
    """What a cache needs of the provider behind it."""

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Read the Secret that `ref` names, whichever key of it. Raises a `SecretError`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


@final
class CachedSecretProvider:
    """Keeps what `inner` read. One read at a time for each Secret, however many ask."""

    __slots__ = (
        "_clock",
        "_closed",
        "_flights",
        "_inner",
        "_known",
        "_max_stale_s",
        "_reads",
        "_refusals",
        "_spread",
        "_ttl_s",
        "failures",
        "hits",
        "misses",
        "refreshes",
        "stale_served",
    )

    def __init__(
        self,
        inner: SnapshotReader,
        *,
        ttl_s: float = 60.0,
        max_stale_s: float = 300.0,
        max_entries: int = 2048,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`max_stale_s` counts from the read, as `ttl_s` does; 0 serves nothing stale. `spread` draws from a range."""
        self._inner = inner
        self._ttl_s = ttl_s
        self._max_stale_s = max_stale_s
        self._clock = clock
        self._spread = spread
        self._known = SnapshotStore(max_entries)
        self._refusals: OrderedDict[Place, tuple[type[SecretError], float]] = OrderedDict()
        self._flights: dict[Place, asyncio.Future[_Outcome]] = {}
        self._reads: set[asyncio.Task[_Outcome]] = set()
        self._closed = False
        self.hits = 0
        """Secrets given from memory while fresh."""
        self.misses = 0
        """Resolves that had to wait for a read."""
        self.refreshes = 0
        """Reads in the background, ahead of time, for a Secret in use."""
        self.stale_served = 0
        """Secrets given from memory after their time, while the provider could not be asked."""
        self.failures: Counter[Code] = Counter()
        """Reads that brought no Secret, by the reason."""

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """See `SecretProvider.resolve`."""
        found = self.cached(ref, tenant=tenant, purpose=purpose) or self._remembered(ref, tenant, purpose)
        if found is None:
            outcome = await self._read(ref)
            found = (
                outcome.find(ref.key, tenant=tenant, purpose=purpose)
                if isinstance(outcome, SecretSnapshot)
                else outcome
            )
        if found is SecretUnavailable:
            found = self._stale(ref, tenant, purpose)
        if isinstance(found, SigningSecret):
            return found
        raise found

    def cached(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret | None:
        """The secret, if it is fresh in memory and may be had; else None, and `resolve` says why. Never waits."""
        now, entry = self._clock(), self._known.get(ref.place)
        if entry is None or now >= entry.fresh_until:
            return None
        found = entry.snapshot.find(ref.key, tenant=tenant, purpose=purpose)
        if not isinstance(found, SigningSecret):
            return None
        self.hits += 1
        if now - entry.used_at >= USE_EVERY_S:
            entry.used_at = now
            self._known.touch(ref.place)
        if now >= entry.refresh_at and ref.place not in self._flights:
            self.refreshes += 1
            self._start(ref)
        return found

    @property
    def size(self) -> int:
        """How many Secrets are in memory."""
        return len(self._known)

    @property
    def ages_s(self) -> list[float]:
        """How long ago each Secret in memory was read, in no order, and with no names."""
        now = self._clock()
        return [now - entry.began_at for entry in self._known]

    def evict(self, namespace: str, name: str) -> None:
        """Forget a Secret now, for example after a key was revoked. A read under way is not kept either."""
        place = (namespace, name)
        self._known.discard(place)
        self._refusals.pop(place, None)
        self._flights.pop(place, None)

    def evict_all(self) -> None:
        """Forget every Secret now, and keep none of the reads under way."""
        self._known.clear()
        self._refusals.clear()
        self._flights.clear()

    async def aclose(self) -> None:
        """Forget everything, stop the reads under way, and close the provider behind."""
        self._closed = True
        self.evict_all()
        for read in self._reads:
            read.cancel()
        if self._reads:
            await asyncio.wait(self._reads)
        await self._inner.aclose()

    def _remembered(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError] | None:
        """What can be said without a read when no fresh secret is there: a young refusal, or that one just failed."""
        place, now = ref.place, self._clock()
        refusal, until = self._refusals.get(place, (None, 0.0))
        if now < until:
            return refusal
        entry = self._known.get(place)
        if entry is not None and now < entry.refuses_until:
            return entry.snapshot.find(ref.key, tenant=tenant, purpose=purpose)
        if entry is not None and now < entry.ask_again_at:
            return SecretUnavailable
        return None

    def _stale(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError]:
        """The secret of an old snapshot that is not too old. What it would refuse is not known for sure any more."""
        place = ref.place
        entry = self._known.get(place)
        if entry is None:
            return SecretUnavailable
        if self._clock() >= entry.stale_until:
            self._known.discard(place)
            return SecretUnavailable
        found = entry.snapshot.find(ref.key, tenant=tenant, purpose=purpose)
        if not isinstance(found, SigningSecret):
            return SecretUnavailable
        self.stale_served += 1
        return found

    async def _read(self, ref: SecretRef) -> _Outcome:
        """Join the read of this Secret that is under way, or start it. It goes on if who started it is cancelled."""
        if self._closed:
            return SecretUnavailable
        self.misses += 1
        flight = self._flights.get(ref.place) or self._start(ref)
        return await asyncio.shield(flight)

    def _start(self, ref: SecretRef) -> asyncio.Future[_Outcome]:
        place, loop = ref.place, asyncio.get_running_loop()
        flight = self._flights[place] = loop.create_future()
        read = loop.create_task(_outcome_of(self._inner, ref))
        self._reads.add(read)
        read.add_done_callback(partial(self._land, place, flight, self._clock()))
        return flight

    def _land(
        self, place: Place, flight: asyncio.Future[_Outcome], began_at: float, read: asyncio.Task[_Outcome]
    ) -> None:
        """Keep what a read brought, unless it was overtaken, and give it to all who wait."""
        self._reads.discard(read)
        outcome = SecretUnavailable if read.cancelled() or read.exception() is not None else read.result()
        if not isinstance(outcome, SecretSnapshot):
            self.failures[outcome.code] += 1
        if self._flights.get(place) is flight:
            del self._flights[place]
            self._keep(place, outcome, began_at)
        flight.set_result(outcome)

    def _keep(self, place: Place, outcome: _Outcome, began_at: float) -> None:
        now, soon_s = self._clock(), REFUSAL_TTL_S * self._spread(0.8, 1.2)
        if isinstance(outcome, SecretSnapshot):
            self._refusals.pop(place, None)
            self._known.put(place, self._entry(outcome, began_at, soon_s), now=now)
        elif outcome is not SecretUnavailable:
            self._known.discard(place)
            self._refusals[place] = (outcome, now + soon_s)
            if len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)
        elif (entry := self._known.get(place)) is not None:
            entry.ask_again_at = now + soon_s
            entry.refresh_at = max(entry.refresh_at, entry.ask_again_at)

    def _entry(self, snapshot: SecretSnapshot, began_at: float, soon_s: float) -> CacheEntry:
        fresh_s = self._ttl_s * self._spread(0.8, 1.0)
        return CacheEntry(
            snapshot,
            began_at=began_at,
            fresh_s=fresh_s,
            stale_s=self._max_stale_s,
            refuses_s=soon_s,
            refresh_s=fresh_s * REFRESH_AFTER,
        )


async def _outcome_of(inner: SnapshotReader, ref: SecretRef) -> _Outcome:
    """Errors as values: one exception object raised to many would carry all their tracebacks."""
    try:
        return await inner.read(ref)
    except SecretError as error:
        return type(error)
