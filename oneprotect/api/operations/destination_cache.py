"""The destinations of a tenant, as requests for deliveries need them: at hand, and following every change.

A tenant's are read whole when first needed, then the bucket's announcements keep them true. A reconnect forgets them,
and nothing is believed for longer than a minute.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Final

import msgspec

from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvEntry
from schemas.configuration import Destination
from schemas.subscriptions import asks_for

BELIEVED_S: Final = 60.0
MAX_TENANTS: Final = 1024
_LAG_S: Final = 10.0
"""What was announced lately counts for more than a list from a replica, which may lag behind."""


class _AnnouncedValue(msgspec.Struct, frozen=True, gc=False):
    """What a key holds (None: nothing that can be understood), and when it was announced: 0 when it was read."""

    revision: int
    destination: Destination | None
    at: float = 0.0


class _TenantDestinations:
    """What is known of one."""

    __slots__ = ("destinations", "until")

    def __init__(self) -> None:
        self.destinations: dict[str, _AnnouncedValue] = {}
        self.until = 0.0


class DestinationCache:
    """Finds destinations by name or by subscription. Raises `JetStreamError` when they can't be read."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._bucket = bucket
        connection.on_reconnect(self.forget)
        self._tenants: OrderedDict[str, _TenantDestinations] = OrderedDict()
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Hear of changes from now on."""
        await self._bucket.on_change(self._take)

    async def forget(self) -> None:
        """After a reconnect: announcements may have been missed."""
        for tenant in self._tenants.values():
            tenant.until = 0.0

    async def has(self, tenant: str, name: str) -> bool:
        """Whether the tenant has a destination of this name, be it enabled or not."""
        heard = (await self._of(tenant)).get(name)
        if heard is None:  # it may have been made this moment, and not have been announced yet
            heard = _heard(await self._bucket.find(f"{tenant}.{name}"))
        return heard.destination is not None

    async def subscribed(self, tenant: str, event_type: str) -> list[str]:
        """The names of the enabled ones that ask for events of this type, sorted."""
        return sorted(
            name
            for name, heard in (await self._of(tenant)).items()
            if heard.destination is not None
            and heard.destination.enabled
            and asks_for(heard.destination.event_types, event_type)
        )

    async def _of(self, name: str) -> dict[str, _AnnouncedValue]:
        tenant = self._tenants.get(name)
        if tenant is None or tenant.until < time.monotonic():
            reading = self._reading.get(name)
            if reading is None:
                reading = self._reading[name] = asyncio.create_task(self._read(name))
                reading.add_done_callback(lambda _: self._reading.pop(name, None))
            await asyncio.shield(reading)
            tenant = self._tenants[name]
        self._tenants.move_to_end(name)
        return tenant.destinations

    async def _read(self, name: str) -> None:
        tenant = self._tenants.setdefault(name, _TenantDestinations())  # from here on announcements reach it
        entries = await self._bucket.list(f"{name}.*")
        now = time.monotonic()
        read = {entry.key.partition(".")[2]: _heard(entry) for entry in entries}
        for key, heard in tenant.destinations.items():
            listed = read.get(key)
            if heard.at > now - _LAG_S and (listed is None or heard.revision > listed.revision):
                read[key] = heard
        tenant.destinations, tenant.until = read, now + BELIEVED_S
        while len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)

    async def _take(self, entry: KvEntry) -> None:
        name, _, key = entry.key.partition(".")
        tenant = self._tenants.get(name)
        if tenant is not None:
            tenant.destinations[key] = _heard(entry, at=time.monotonic())


def _heard(entry: KvEntry, at: float = 0.0) -> _AnnouncedValue:
    try:
        destination = None if entry.value is None else msgspec.json.decode(entry.value, type=Destination)
    except msgspec.DecodeError:  # consumers take it for absent, too
        destination = None
    return _AnnouncedValue(entry.revision, destination, at)
