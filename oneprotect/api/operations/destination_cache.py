"""The destinations of each tenant in memory, for requests that ask for deliveries."""

import sys
from collections import OrderedDict
from typing import Final

from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import KvCache
from schemas.configuration import Destination
from schemas.subscriptions import asks_for

MAX_TENANTS: Final = 1024


class DestinationCache:
    """Finds destinations by name or by subscription. Raises `JetStreamError` when they cannot be read."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._table = KvTable(bucket, Destination)
        self._tenants: OrderedDict[str, KvCache[Destination]] = OrderedDict()
        connection.on_reconnect(self.forget)

    async def start(self) -> None:
        """Follow the announcements of the bucket."""
        await self._table.bucket.on_change(self._receive)

    async def forget(self) -> None:
        """Read all destinations again when they are next needed: announcements may have been lost."""
        for cache in self._tenants.values():
            cache.expire()

    async def has(self, tenant: str, name: str) -> bool:
        """Return true if the tenant has a destination of this name, enabled or not."""
        key, cache = f"{tenant}.{name}", await self._cache(tenant)
        # Without a row the destination may have just been created, and its announcement not have arrived.
        return cache.peek(key) is not None or await self._table.get(key) is not None

    async def subscribed(self, tenant: str, event_type: str) -> list[str]:
        """Return the sorted names of the enabled destinations that subscribe to events of this type."""
        destinations = (await self._cache(tenant)).items()
        return sorted(
            key.partition(".")[2]
            for key, destination in destinations
            if destination.enabled and asks_for(destination.event_types, event_type)
        )

    async def _cache(self, tenant: str) -> KvCache[Destination]:
        cache = self._tenants.get(tenant)
        if cache is None:  # from here on announcements reach it
            cache = self._tenants[tenant] = KvCache(self._table, max_entries=sys.maxsize)
        self._tenants.move_to_end(tenant)
        while len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        await cache.refresh(f"{tenant}.*")
        return cache

    async def _receive(self, entry: KvEntry) -> None:
        cache = self._tenants.get(entry.key.partition(".")[0])
        if cache is not None:
            await cache.receive(entry)
