"""Destinations and credentials in the memory of a consumer."""

from collections.abc import Callable

from messaging.kv import KvBucket, KvTable
from messaging.kv_cache import MAX_ENTRIES, CachedValue, KvCache
from schemas.configuration import Credential, Destination


class ConfigurationDirectory:
    """Looks up destinations and credentials by tenant and id."""

    def __init__(self, destinations: KvBucket, credentials: KvBucket, *, max_entries: int = MAX_ENTRIES) -> None:
        self._destinations = KvCache(KvTable(destinations, Destination), max_entries=max_entries)
        self._destinations.on_update = self._on_destination_update
        self._on_destination: Callable[[str], None] = lambda _: None
        self.ordered_destinations: set[str] = set()
        """`<tenant>.<id>` of each known destination with `ordering: fifo`."""
        self.rates: dict[str, float] = {}
        """Attempts per second by `<tenant>.<id>`, for each known destination with a rate limit."""
        self._credentials = KvCache(KvTable(credentials, Credential))

    async def start(self) -> None:
        """Follow changes from now on."""
        await self._destinations.start()
        await self._credentials.start()

    async def forget(self) -> None:
        """Forget everything: after a reconnect, announcements may have been missed."""
        self.ordered_destinations.clear()
        self.rates.clear()
        for key in await self._destinations.forget():
            self._on_destination(key)
        await self._credentials.forget()

    async def destination(self, tenant: str, name: str) -> Destination | None:
        """Return the destination, or None."""
        key = f"{tenant}.{name}"
        known = self._destinations.get_if_fresh(key)
        return known.value if known is not None else await self._destinations.get(key)

    def known_destination(self, key: str) -> CachedValue[Destination] | None:
        """Return the cached destination `<tenant>.<id>` if it is still valid."""
        return self._destinations.get_if_fresh(key)

    def known_credential(self, key: str) -> CachedValue[Credential] | None:
        """Return the cached credential `<tenant>.<id>` if it is still valid."""
        return self._credentials.get_if_fresh(key)

    def is_unordered(self, key: str) -> bool:
        """Return whether the destination `<tenant>.<id>` is cached, and does not exist or has no ordered queue."""
        known = self._destinations.get_if_fresh(key)
        return known is not None and (known.value is None or known.value.ordering != "fifo")

    async def credential(self, tenant: str, name: str) -> Credential | None:
        """Return the credential, or None."""
        key = f"{tenant}.{name}"
        known = self._credentials.get_if_fresh(key)
        return known.value if known is not None else await self._credentials.get(key)

    def on_destination(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with `<tenant>.<id>` of each destination that has been read, has changed or is forgotten."""
        self._on_destination = callback  # not if displaced: lanes that wait would displace each other all the time

    def on_credential(self, callback: Callable[[str, Credential | None, Credential | None], None]) -> None:
        """Call `callback` with `<tenant>.<id>`, old and new value of each credential that has been read or changed."""
        self._credentials.on_update = callback

    def _on_destination_update(self, key: str, _old: Destination | None, new: Destination | None) -> None:
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
        """Return how many deliveries to `<tenant>.<id>` may be in flight: none before the destination was read."""
        if not self._destinations.knows(lane):
            self._destinations.begin_reading(lane)
            return 0
        destination = self._destinations.peek(lane)
        return (destination and destination.max_in_flight) or default
