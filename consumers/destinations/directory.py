"""Destinations and credentials, as the consumers see them: read once, kept in memory, refreshed when they change.

The bucket announces each value after it is stored, so a change is seen within milliseconds. An announcement can be
missed while the connection is away: a reconnect forgets everything, and nothing is believed for longer than a minute.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvEntry
from schemas.configuration import Credential, Destination

MAX_AGE_S: Final = 60.0
MAX_ENTRIES: Final = 50_000

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class CachedValue(Generic[T]):
    """What a key's value is (None: there is none), since which revision, and until when that is believed.

    When it is believed no longer, or something newer is known, `until` is 0: whoever keeps it need only look there.
    """

    __slots__ = ("revision", "until", "value")

    def __init__(self, value: T | None, revision: int, until: float) -> None:
        """`until`: by `time.monotonic`."""
        self.value = value
        self.revision = revision
        self.until = until


class KvCache(Generic[T]):
    """One bucket's values of type `T`, cached. A value that can't be understood counts as absent, and is logged."""

    def __init__(self, bucket: KvBucket, kind: type[T]) -> None:
        self.on_take: Callable[[str, T | None, T | None], None] = _ignore
        """Called with key, old and new value whenever one has been read or has changed."""
        self.on_forget: Callable[[str], None] = lambda _: None
        """Called with each key that is no longer known."""
        self._bucket = bucket
        self._decode = msgspec.json.Decoder(kind).decode
        self._known: dict[str, CachedValue[T]] = {}
        self._reading: dict[str, asyncio.Task[T | None]] = {}

    async def start(self) -> None:
        """Hear of changes from now on."""
        await self._bucket.on_change(self._take)

    async def forget(self) -> None:
        """Believe nothing that was read before."""
        self._forget()

    def _forget(self) -> None:
        forgotten, self._known = self._known, {}
        for known in forgotten.values():
            known.until = 0.0
        for key in forgotten:
            self.on_forget(key)

    def knows(self, key: str) -> bool:
        """Whether the key has been read, though it may have no value."""
        return key in self._known

    def peek(self, key: str) -> T | None:
        """The value if it is at hand."""
        known = self._known.get(key)
        return known.value if known else None

    def values(self) -> Iterator[T]:
        """All values at hand, whatever their age."""
        return (known.value for known in self._known.values() if known.value is not None)

    def get_if_fresh(self, key: str) -> CachedValue[T] | None:
        """What is known of the key, unless that is nothing or too old: spares the hot path a coroutine."""
        known = self._known.get(key)
        return known if known is not None and known.until > time.monotonic() else None

    async def get(self, key: str) -> T | None:
        """The value, or None when there is none. Waits for JetStream as long as it takes."""
        known = self.get_if_fresh(key)
        if known is not None:
            return known.value
        return await asyncio.shield(self.begin_reading(key))

    def begin_reading(self, key: str) -> asyncio.Task[T | None]:
        """The reading of the key that is under way, or a new one."""
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(key))
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        return reading

    async def _read(self, key: str) -> T | None:
        delay_s = 0.1
        while True:
            try:
                entry = await self._bucket.get(key)
            except JetStreamError as error:
                _log.warning("config.unreadable", error=str(error), next_try_s=delay_s)
            else:
                await self._take(entry or KvEntry(key, None, 0))
                return self.peek(key)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 5.0)

    async def _take(self, entry: KvEntry) -> None:
        known, now = self._known.get(entry.key), time.monotonic()
        if known is not None:
            if entry.revision < known.revision and known.until > now:
                return  # a replica that lags behind what was announced
            known.until = 0.0
        if len(self._known) >= MAX_ENTRIES:
            self._forget()
        value = self._value(entry)
        self._known[entry.key] = CachedValue(value, entry.revision, now + MAX_AGE_S)
        self.on_take(entry.key, known.value if known else None, value)

    def _value(self, entry: KvEntry) -> T | None:
        if entry.value is None:
            return None
        try:
            return self._decode(entry.value)
        except msgspec.DecodeError:
            _log.exception("config.undecodable", key=entry.key, exc_info=False)
            return None


def _ignore(_key: str, _old: object, _new: object) -> None:
    """Nobody wants to know."""


class ConfigurationDirectory:
    """Looks up destinations and credentials by tenant and id."""

    def __init__(self, destinations: KvBucket, credentials: KvBucket) -> None:
        self._destinations = KvCache(destinations, Destination)
        self._destinations.on_take = self._took
        self._on_destination: Callable[[str], None] = lambda _: None
        self.ordered_destinations: set[str] = set()
        """`<tenant>.<id>` of each destination that is known to take its deliveries in order."""
        self.rates: dict[str, float] = {}
        """Attempts a second that a destination takes, by `<tenant>.<id>`, for those that are known to have a limit."""
        self._credentials = KvCache(credentials, Credential)

    async def start(self) -> None:
        """Hear of changes from now on."""
        await self._destinations.start()
        await self._credentials.start()

    async def forget(self) -> None:
        """After a reconnect: announcements may have been missed."""
        self.ordered_destinations.clear()
        self.rates.clear()
        await self._destinations.forget()
        await self._credentials.forget()

    async def destination(self, tenant: str, name: str) -> Destination | None:
        """The destination, or None."""
        key = f"{tenant}.{name}"
        known = self._destinations.get_if_fresh(key)
        return known.value if known is not None else await self._destinations.get(key)

    def known_destination(self, key: str) -> CachedValue[Destination] | None:
        """What is known of the destination `<tenant>.<id>`, unless that is nothing or too old."""
        return self._destinations.get_if_fresh(key)

    def known_credential(self, key: str) -> CachedValue[Credential] | None:
        """The same of a credential."""
        return self._credentials.get_if_fresh(key)

    async def credential(self, tenant: str, name: str) -> Credential | None:
        """The credential, or None."""
        key = f"{tenant}.{name}"
        known = self._credentials.get_if_fresh(key)
        return known.value if known is not None else await self._credentials.get(key)

    def on_destination(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with `<tenant>.<id>` of each destination that has been read, has changed or is forgotten."""
        self._on_destination = self._destinations.on_forget = callback

    def on_credential(self, callback: Callable[[str, Credential | None, Credential | None], None]) -> None:
        """Call `callback` with `<tenant>.<id>`, old and new value of each credential that has been read or changed."""
        self._credentials.on_take = callback

    def _took(self, key: str, _old: Destination | None, new: Destination | None) -> None:
        if new is not None and new.ordering == "fifo":
            self.ordered_destinations.add(key)
        else:
            self.ordered_destinations.discard(key)
        if new is not None and new.rate_per_s is not None:
            self.rates[key] = new.rate_per_s
        else:
            self.rates.pop(key, None)
        self._on_destination(key)

    def lane_limit(self, lane: str, default: int) -> int:
        """How many deliveries to the destination `<tenant>.<id>` may be in flight: none before it has been read."""
        if not self._destinations.knows(lane):
            self._destinations.begin_reading(lane)
            return 0
        destination = self._destinations.peek(lane)
        return (destination and destination.max_in_flight) or default
