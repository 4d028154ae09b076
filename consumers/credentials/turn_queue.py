"""The order in which credentials are checked: tenants take turns, however many credentials each of them has."""

import collections
from typing import Final

MAX_RUNNING: Final = 16
"""Checks at a time."""
MAX_RUNNING_PER_TENANT: Final = 2

_Keys = collections.OrderedDict[str, None]


class TurnQueue:
    """Keys `<tenant>.<id>` that wait for their turn. A key waits once, and runs once at a time."""

    def __init__(self) -> None:
        self._ready: collections.OrderedDict[str, _Keys] = collections.OrderedDict()
        """Waiting keys of the tenants that may start one, by tenant, in the order of their turns."""
        self._suspended: dict[str, _Keys] = {}
        """Waiting keys of the tenants that have as many running as they may."""
        self._running: set[str] = set()
        self._running_of: collections.Counter[str] = collections.Counter()
        self._again: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, (*self._ready.values(), *self._suspended.values())))

    def is_running(self, key: str) -> bool:
        """Return whether the key was started and has not ended."""
        return key in self._running

    def add(self, key: str, *, first: bool = False) -> None:
        """Add a key. `first`: before the other keys of its tenant, which get no more turns by that."""
        if key in self._running:
            self._again.add(key)
            return
        tenant = key.partition(".")[0]
        keys = self._suspended.get(tenant) or self._ready.get(tenant)
        if keys is None:
            has_turns = self._running_of[tenant] < MAX_RUNNING_PER_TENANT
            keys = (self._ready if has_turns else self._suspended).setdefault(tenant, _Keys())
        keys.setdefault(key)
        if first:
            keys.move_to_end(key, last=False)

    def discard(self, key: str) -> None:
        """Remove a key if it waits."""
        tenant = key.partition(".")[0]
        for waiting in (self._ready, self._suspended):
            keys = waiting.get(tenant)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del waiting[tenant]

    def start(self) -> str | None:
        """Remove and return the next key that may run now, or None. Then call `end` with it."""
        if not self._ready or len(self._running) >= MAX_RUNNING:
            return None
        tenant, keys = self._ready.popitem(last=False)
        key, _ = keys.popitem(last=False)
        self._running.add(key)
        self._running_of[tenant] += 1
        if keys:
            has_turns = self._running_of[tenant] < MAX_RUNNING_PER_TENANT
            (self._ready if has_turns else self._suspended)[tenant] = keys
        return key

    def end(self, key: str) -> None:
        """End a key. It waits again if it was added meanwhile."""
        tenant = key.partition(".")[0]
        self._running.remove(key)
        self._running_of[tenant] -= 1
        if not self._running_of[tenant]:
            del self._running_of[tenant]
        if (keys := self._suspended.pop(tenant, None)) is not None:
            self._ready[tenant] = keys
        if key in self._again:
            self._again.remove(key)
            self.add(key, first=True)
