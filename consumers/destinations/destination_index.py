"""The destinations of each tenant in memory, by name, by subscription and by credential.

A tenant's destinations are read when they are first asked for, and followed by the announcements of the bucket. So a
fan-out, an operational event or a credential costs what it finds, however many destinations the tenant has.
"""

import sys
from collections import OrderedDict
from typing import Final, Literal

from msgspec import Struct

from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import KvCache
from schemas.configuration import EventPattern
from schemas.subscriptions import SubscriptionIndex

MAX_TENANTS: Final = 1024
MAX_SUBSCRIPTIONS: Final = 200_000
"""Event types that all destinations of a tenant may name together: each takes memory in every process."""
MAX_AGE_S: Final = 300.0
"""Seconds after which a tenant's destinations are read again, in case an announcement was lost."""


class DestinationSummary(Struct, frozen=True):
    """The fields of a stored destination that the index needs; see `schemas.configuration.Destination`."""

    credential: str
    event_types: tuple[EventPattern, ...] = ()
    ordering: Literal["any", "fifo"] = "any"
    enabled: bool = True


class _TenantDestinations:
    """The destinations of a tenant."""

    def __init__(self, table: KvTable[DestinationSummary]) -> None:
        self.rows = KvCache(table, max_age_s=MAX_AGE_S, max_entries=sys.maxsize)
        self.rows.on_update = self._on_update
        self.subscriptions = SubscriptionIndex()
        self.subscription_count = 0
        self.users: dict[str, dict[str, DestinationSummary]] = {}
        """Destinations by name, by credential."""

    def _on_update(self, key: str, old: DestinationSummary | None, new: DestinationSummary | None) -> None:
        name = key.partition(".")[2]
        if old is not None:
            self.subscriptions.remove(name, old.event_types)
            self.subscription_count -= len(old.event_types)
            users = self.users[old.credential]
            del users[name]
            if not users:
                del self.users[old.credential]
        if new is not None:
            self.users.setdefault(new.credential, {})[name] = new
            self.subscription_count += len(new.event_types)
            if new.enabled:
                self.subscriptions.add(name, new.event_types)


class DestinationIndex:
    """Finds destinations of a tenant. Raises `JetStreamError` when they cannot be read."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._table = KvTable(bucket, DestinationSummary)
        self._tenants: OrderedDict[str, _TenantDestinations] = OrderedDict()
        connection.on_reconnect(self.forget)

    async def start(self) -> None:
        """Follow the announcements of the bucket."""
        await self._table.bucket.on_change(self._receive)

    async def forget(self) -> None:
        """Read all destinations again when they are next needed: announcements may have been lost."""
        for known in self._tenants.values():
            known.rows.expire()

    def tenants(self) -> set[str]:
        """Return the tenants whose destinations are in memory."""
        return set(self._tenants)

    async def has(self, tenant: str, name: str) -> bool:
        """Return true if the tenant has a destination of this name, enabled or not."""
        key, known = f"{tenant}.{name}", await self._read(tenant)
        # Without a row the destination may have just been created, and its announcement not have arrived.
        return known.rows.peek(key) is not None or await self._table.get(key) is not None

    async def is_ordered(self, tenant: str, name: str) -> bool:
        """Return true if the destination is known to have an ordered queue."""
        known = (await self._read(tenant)).rows.peek(f"{tenant}.{name}")
        return known is not None and known.ordering == "fifo"

    async def subscribed(self, tenant: str, event_type: str) -> list[str]:
        """Return the sorted names of the enabled destinations that subscribe to events of this type."""
        return (await self._read(tenant)).subscriptions.find(event_type)

    async def count(self, tenant: str) -> int:
        """Return the number of the tenant's destinations."""
        return sum(map(len, (await self._read(tenant)).users.values()))

    async def count_other_subscriptions(self, tenant: str, name: str) -> int:
        """Return the number of event types that the tenant's destinations name, except the destination `name`."""
        known = await self._read(tenant)
        own = known.rows.peek(f"{tenant}.{name}")
        return known.subscription_count - (0 if own is None else len(own.event_types))

    async def users(self, tenant: str, credential: str) -> dict[str, DestinationSummary]:
        """Return the destinations that the credential signs for, by name."""
        return dict((await self._read(tenant)).users.get(credential, {}))

    async def _read(self, tenant: str) -> _TenantDestinations:
        known = self._tenants.get(tenant)
        if known is None:  # from here on announcements reach it
            known = self._tenants[tenant] = _TenantDestinations(self._table)
        self._tenants.move_to_end(tenant)
        while len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        await known.rows.refresh(f"{tenant}.*")
        return known

    async def _receive(self, entry: KvEntry) -> None:
        known = self._tenants.get(entry.key.partition(".")[0])
        if known is not None:
            await known.rows.receive(entry)
