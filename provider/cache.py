"""A cache before a provider: fresh for a minute, stale for at most five, and only while the provider can't be asked.

What it keeps is one snapshot per Secret, and whoever asks is checked against its labels each time. Failing closed:
- An answer ages from the moment its read began, and nothing prolongs it.
- "Not found", "denied" and the like throw away what was known at once. Only silence is bridged.
- A refusal is never older than some five seconds, so what an operator has just mended is soon seen. If it rests on an
  older snapshot, that is read anew first; who asks for another tenant's Secret takes nothing from its owner by it.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, final

from provider.errors import SecretError, SecretUnavailable
from provider.ref import SecretRef
from provider.snapshot import Snapshot
from provider.value import SigningSecret
from schemas.ids import Purpose

REFUSAL_TTL_S: Final = 5.0
MAX_REFUSALS: Final = 1000

_Key = tuple[str, str]
_Outcome = Snapshot | type[SecretError]


class SnapshotReader(Protocol):
    """What a cache needs of the provider behind it."""

    async def read(self, ref: SecretRef) -> Snapshot:
        """Read the Secret that `ref` names, whichever key of it. Raises a `SecretError`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


@final
class _Entry:
    """A snapshot and the moments, by the cache's clock, until which it may be used, and for what."""

    __slots__ = ("ask_again_at", "fresh_until", "refuses_until", "snapshot", "stale_until")

    def __init__(self, snapshot: Snapshot, *, fresh_until: float, stale_until: float, refuses_until: float) -> None:
        self.snapshot: Final = snapshot
        self.fresh_until: Final = fresh_until
        self.stale_until: Final = max(stale_until, fresh_until)
        self.refuses_until: Final = min(refuses_until, fresh_until)
        self.ask_again_at = 0.0
        """After a read that failed: until then the provider is left in peace."""


@final
class CachedSecretProvider:
    """Keeps what `inner` read. One read at a time for each Secret, however many ask."""

    __slots__ = (
        "_clock",
        "_closed",
        "_entries",
        "_flights",
        "_inner",
        "_max_entries",
        "_max_stale_s",
        "_reads",
        "_refusals",
        "_spread",
        "_ttl_s",
        "failures",
        "hits",
        "misses",
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
        self._max_entries = max_entries
        self._clock = clock
        self._spread = spread
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._refusals: OrderedDict[_Key, tuple[type[SecretError], float]] = OrderedDict()
        self._flights: dict[_Key, asyncio.Future[_Outcome]] = {}
        self._reads: set[asyncio.Task[_Outcome]] = set()
        self._closed = False
        self.hits = 0
        """Secrets given from memory while fresh."""
        self.misses = 0
        """Resolves that had to wait for a read."""
        self.stale_served = 0
        """Secrets given from memory after their time, while the provider could not be asked."""
        self.failures = 0
        """Reads that brought no Secret, for whatever reason."""

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """See `SecretProvider.resolve`."""
        found = self.cached(ref, tenant=tenant, purpose=purpose) or self._remembered(ref, tenant, purpose)
        if found is None:
            outcome = await self._read(ref)
            found = outcome.find(ref.key, tenant=tenant, purpose=purpose) if isinstance(outcome, Snapshot) else outcome
        if found is SecretUnavailable:
            found = self._stale(ref, tenant, purpose)
        if isinstance(found, SigningSecret):
            return found
        raise found

    def cached(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret | None:
        """The secret, if it is fresh in memory and may be had; else None, and `resolve` says why. Never waits."""
        key = (ref.namespace, ref.name)
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.fresh_until:
            return None
        found = entry.snapshot.find(ref.key, tenant=tenant, purpose=purpose)
        if not isinstance(found, SigningSecret):
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return found

    @property
    def size(self) -> int:
        """How many Secrets are in memory."""
        return len(self._entries)

    def evict(self, namespace: str, name: str) -> None:
        """Forget a Secret now, for example after a key was revoked. A read under way is not kept either."""
        key = (namespace, name)
        self._entries.pop(key, None)
        self._refusals.pop(key, None)
        self._flights.pop(key, None)

    async def aclose(self) -> None:
        """Forget everything, stop the reads under way, and close the provider behind."""
        self._closed = True
        self._entries.clear()
        self._refusals.clear()
        self._flights.clear()
        for read in self._reads:
            read.cancel()
        if self._reads:
            await asyncio.wait(self._reads)
        await self._inner.aclose()

    def _remembered(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError] | None:
        """What can be said without a read when no fresh secret is there: a young refusal, or that one just failed."""
        key, now = (ref.namespace, ref.name), self._clock()
        refusal, until = self._refusals.get(key, (None, 0.0))
        if now < until:
            return refusal
        entry = self._entries.get(key)
        if entry is not None and now < entry.refuses_until:
            return entry.snapshot.find(ref.key, tenant=tenant, purpose=purpose)
        if entry is not None and now < entry.ask_again_at:
            return SecretUnavailable
        return None

    def _stale(self, ref: SecretRef, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError]:
        """The secret of an old snapshot that is not too old. What it would refuse is not known for sure any more."""
        key = (ref.namespace, ref.name)
        entry = self._entries.get(key)
        if entry is None:
            return SecretUnavailable
        if self._clock() >= entry.stale_until:
            del self._entries[key]
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
        flight = self._flights.get((ref.namespace, ref.name)) or self._start(ref)
        return await asyncio.shield(flight)

    def _start(self, ref: SecretRef) -> asyncio.Future[_Outcome]:
        key, loop = (ref.namespace, ref.name), asyncio.get_running_loop()
        flight = self._flights[key] = loop.create_future()
        read = loop.create_task(_outcome_of(self._inner, ref))
        self._reads.add(read)
        read.add_done_callback(partial(self._land, key, flight, self._clock()))
        return flight

    def _land(self, key: _Key, flight: asyncio.Future[_Outcome], began_at: float, read: asyncio.Task[_Outcome]) -> None:
        """Keep what a read brought, unless it was overtaken, and give it to all who wait."""
        self._reads.discard(read)
        outcome = SecretUnavailable if read.cancelled() or read.exception() is not None else read.result()
        self.failures += not isinstance(outcome, Snapshot)
        if self._flights.get(key) is flight:
            del self._flights[key]
            self._keep(key, outcome, began_at)
        flight.set_result(outcome)

    def _keep(self, key: _Key, outcome: _Outcome, began_at: float) -> None:
        soon_s = REFUSAL_TTL_S * self._spread(0.8, 1.2)
        if isinstance(outcome, Snapshot):
            self._refusals.pop(key, None)
            self._entries[key] = _Entry(
                outcome,
                fresh_until=began_at + self._ttl_s * self._spread(0.8, 1.0),
                stale_until=began_at + self._max_stale_s,
                refuses_until=began_at + soon_s,
            )
            self._entries.move_to_end(key)
            self._drop_old_entries()
        elif outcome is not SecretUnavailable:
            self._entries.pop(key, None)
            self._refusals[key] = (outcome, self._clock() + soon_s)
            if len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)
        elif key in self._entries:
            self._entries[key].ask_again_at = self._clock() + soon_s

    def _drop_old_entries(self) -> None:
        """Drop the least used of too many, and those that nobody used until they were too old to be of use."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if len(self._entries) <= self._max_entries and self._clock() < entry.stale_until:
                return
            del self._entries[key]


async def _outcome_of(inner: SnapshotReader, ref: SecretRef) -> _Outcome:
    """Errors as values: one exception object raised to many would carry all their tracebacks."""
    try:
        return await inner.read(ref)
    except SecretError as error:
        return type(error)
