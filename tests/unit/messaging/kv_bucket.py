"""A bucket in memory for unit tests of the caches."""

from collections.abc import AsyncIterator, Awaitable, Callable
from fnmatch import fnmatch
from typing import cast

from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable
from messaging.kv import KvBucket, KvEntry


class StubBucket:
    """A bucket that may be unavailable. `entries` is what its replicas answer."""

    name = "stub"

    def __init__(self, *entries: KvEntry) -> None:
        self.entries = list(entries)
        self.reads = 0
        self.is_available = True
        self.on_list: Callable[[], object] = lambda: None
        """Called while a list is being read."""
        self.announce: Callable[[KvEntry], Awaitable[None]]

    @property
    def bucket(self) -> KvBucket:
        """The stub as a cache expects it."""
        return cast("KvBucket", self)

    @property
    def connection(self) -> NatsConnection:
        """A connection that never reconnects."""
        return cast("NatsConnection", self)

    async def read(self, pattern: str) -> AsyncIterator[KvEntry]:
        """Yield the entries that match."""
        self.reads += 1
        if not self.is_available:
            raise ServerUnavailable("no answer")
        self.on_list()
        for entry in [entry for entry in self.entries if fnmatch(entry.key, pattern)]:
            yield entry

    async def find(self, key: str) -> KvEntry:
        """Return the entry with the key."""
        return next((entry for entry in self.entries if entry.key == key), KvEntry(key, None, 0))

    async def on_change(self, callback: Callable[[KvEntry], Awaitable[None]]) -> None:
        """Send announcements to `callback`."""
        self.announce = callback

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Ignore the callback."""
