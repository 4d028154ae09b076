"""The destinations of each tenant in memory, by name, by subscription and by credential.

A tenant's destinations are read when they are first asked for, and followed by the announcements of the bucket. So a
fan-out, an operational event, a quota or a credential costs what it finds, however many destinations the tenant has.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import KvCache
from messaging.tenant_turns import FairTurns
from schemas.subscriptions import SubscriptionIndex

MAX_TENANTS: Final = 1024
MAX_SUBSCRIPTIONS: Final = 200_000
"""Event types that all destinations of a tenant may name together: each takes memory in every process."""
MAX_WEIGHT: Final = 300_000
"""Destinations and event types of all tenants in memory. Beyond, the largest of the other tenants is forgotten."""
MAX_AGE_S: Final = 300.0
"""Seconds after which a tenant's destinations are read again, in case an announcement was lost."""
BATCHES_AT_ONCE: Final = 4
"""Batches of destinations that are read at a time. The tenants alternate."""


class DestinationSummary(Struct, frozen=True):
    """The fields of a stored destination that the index needs, of any version. See `configuration.Destination`."""

    credential: str
    event_types: tuple[str, ...] = ()
    ordering: str = "any"
    enabled: bool = True


class _TenantDestinations:
    """The destinations of a tenant."""

    def __init__(self, table: KvTable[DestinationSummary], on_growth: Callable[[int], None]) -> None:
        """`on_growth`: called with each change of the weight."""
        self.rows = KvCache(table, max_age_s=MAX_AGE_S, is_whole=True)
        self.rows.on_update = self._on_update
        self.subscriptions = SubscriptionIndex()
        self.count = self.ordered_count = self.subscription_count = 0
        self.users: dict[str, dict[str, DestinationSummary]] = {}
        """Destinations by name, by credential."""
        self.on_growth = on_growth

    @property
    def weight(self) -> int:
        """The number of destinations, and of their event types."""
        return self.count + self.subscription_count

    def _on_update(self, key: str, old: DestinationSummary | None, new: DestinationSummary | None) -> None:
        name, before = key.partition(".")[2], self.weight
        if old is not None:
            self._count(old, -1)
            self.subscriptions.remove(name, old.event_types)
            users = self.users[old.credential]
            del users[name]
            if not users:
                del self.users[old.credential]
        if new is not None:
            self._count(new, 1)
            self.users.setdefault(new.credential, {})[name] = new
            if new.enabled:
                self.subscriptions.add(name, new.event_types)
        self.on_growth(self.weight - before)

    def _count(self, destination: DestinationSummary, step: int) -> None:
        self.count += step
        self.ordered_count += step * (destination.ordering == "fifo")
        self.subscription_count += step * len(destination.event_types)


class DestinationIndex:
    """Finds destinations of a tenant. Raises `JetStreamError` when they cannot be read."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._table = KvTable(bucket, DestinationSummary)
        self._tenants: OrderedDict[str, _TenantDestinations] = OrderedDict()
        self._weight = 0
        self._batches = FairTurns(BATCHES_AT_ONCE)
        self._is_following = False
        connection.on_reconnect(self.forget)

    async def start(self) -> None:
        """Follow the announcements of the bucket. Until then every call reads the tenant's destinations again."""
        await self._table.bucket.on_change(self.receive)
        await self.forget()
        self._is_following = True

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
        return (await self._read(tenant)).count

    async def count_ordered(self, tenant: str) -> int:
        """Return the number of the tenant's destinations that have an ordered queue."""
        return (await self._read(tenant)).ordered_count

    async def count_subscriptions(self, tenant: str, name: str) -> tuple[int, int]:
        """Return the number of event types that the destination `name` has, and that the tenant's other ones have."""
        known = await self._read(tenant)
        row = known.rows.peek(f"{tenant}.{name}")
        own = 0 if row is None else len(row.event_types)
        return own, known.subscription_count - own

    async def users(self, tenant: str, credential: str) -> dict[str, DestinationSummary]:
        """Return the destinations that the credential signs for, by name."""
        return dict((await self._read(tenant)).users.get(credential, {}))

    async def receive(self, entry: KvEntry) -> None:
        """Store an entry that was just announced, or that this process has just stored."""
        known = self._tenants.get(entry.key.partition(".")[0])
        if known is not None:
            await known.rows.receive(entry)

    async def _read(self, tenant: str) -> _TenantDestinations:
        known = self._tenants.get(tenant)
        if known is None:  # from here on announcements reach it
            known = self._tenants[tenant] = _TenantDestinations(self._table, self._grow)
        self._tenants.move_to_end(tenant)
        if not (self._is_following and known.rows.is_fresh):
            if not self._is_following:
                known.rows.expire()
            with direct_get.in_turns(lambda: self._batches.turn(tenant)):
                await known.rows.refresh(f"{tenant}.*")
            self._displace(tenant)
        return known

    def _grow(self, growth: int) -> None:
        self._weight += growth

    def _displace(self, tenant: str) -> None:
        """Forget other tenants than `tenant` until the bounds hold."""
        while len(self._tenants) > 1 and (len(self._tenants) > MAX_TENANTS or self._weight > MAX_WEIGHT):
            others = {name: known.weight for name, known in self._tenants.items() if name != tenant}
            heaviest = max(others, key=others.__getitem__)
            name = heaviest if self._weight > MAX_WEIGHT else next(iter(others))
            displaced = self._tenants.pop(name)
            self._weight -= displaced.weight
            displaced.on_growth = _ignore  # a reader may have it yet


def _ignore(_growth: int) -> None:
    """Count nothing: the owner has dropped the index."""
