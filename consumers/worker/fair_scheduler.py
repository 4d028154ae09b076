"""Whose turn it is: tenants take turns, and of a tenant its destinations do.

Deficit round robin in two levels, with one delivery as its unit: what deliveries cost is a slot for a while, and how
long that is nobody knows beforehand. A tenant with a thousand destinations therefore gets as many starts as one with a
single destination, as long as both have something to start. Every step costs the same, however many there are.

Turns alone would let a tenant whose receivers are slow fill all slots, one turn after the other. So a tenant that has
many in flight starts no more of them than in proportion to the slots that are left (`MAX_SHARE_OF_FREE_SLOTS`): one such tenant leaves a
quarter of the slots to the others, two a seventh, and nobody waits for a slow receiver of somebody else's.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Final

from messaging.pull_consumer import Message

MAX_SHARE_OF_FREE_SLOTS: Final = 3
"""A tenant may have so many times the slots in flight that are left free."""
MIN_SLOTS_PER_TENANT: Final = 8
"""And as many as this, while there is a free slot at all."""


class TenantQueue:
    """A tenant's lanes with something to start, in the order of their turns."""

    __slots__ = ("in_line", "lanes", "name", "running", "size", "startable")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lanes: collections.deque[DestinationLane] = collections.deque()
        self.size = 0
        """Lanes in all, with those that have nothing to start."""
        self.running = 0
        self.startable = 0
        self.in_line = False


class DestinationLane:
    """What waits and runs for one destination."""

    __slots__ = ("in_line", "key", "limit", "running", "startable", "tenant", "waiting")

    def __init__(self, key: str, tenant: TenantQueue, limit: int) -> None:
        self.key = key
        self.tenant = tenant
        self.limit = limit
        """How many of it may run at a time."""
        self.waiting: collections.deque[Message] = collections.deque()
        self.running = 0
        self.startable = 0
        self.in_line = False


class FairScheduler:
    """The lanes, each `<tenant>.<destination>`, and who comes next for one of `slots`."""

    def __init__(self, slots: int, limit_of: Callable[[str], int]) -> None:
        """`limit_of`: how many of a lane may run at a time. It is asked when a lane begins, and by `refresh_limit`."""
        self._slots = slots
        self._limit_of = limit_of
        self._counted = max(1, slots // 8)
        self._lanes: dict[str, DestinationLane] = {}
        self._tenants: dict[str, TenantQueue] = {}
        self._line: collections.deque[TenantQueue] = collections.deque()
        self._aside: collections.OrderedDict[str, TenantQueue] = collections.OrderedDict()
        self.running = 0
        self.runnable = 0
        """How many could be started, but of each tenant no more than an eighth of the slots: what a tenant has beyond
        that must not keep us from seeing the others' work."""

    def __iter__(self) -> Iterator[DestinationLane]:
        return iter(list(self._lanes.values()))

    def find(self, key: str) -> DestinationLane | None:
        """The lane, if anything waits or runs in it."""
        return self._lanes.get(key)

    def lane(self, key: str) -> DestinationLane:
        """The lane, a new one if need be."""
        lane = self._lanes.get(key)
        if lane is None:
            name = key.partition(".")[0]
            tenant = self._tenants.get(name)
            if tenant is None:
                tenant = self._tenants[name] = TenantQueue(name)
            lane = self._lanes[key] = DestinationLane(key, tenant, self._limit_of(key))
            tenant.size += 1
        return lane

    def refresh_limit(self, lane: DestinationLane) -> None:
        """It may be another one now."""
        lane.limit = self._limit_of(lane.key)
        self.refresh(lane)

    def enqueue(self, key: str, message: Message) -> None:
        """Something to do has come for a lane."""
        lane = self._lanes.get(key) or self.lane(key)
        lane.waiting.append(message)
        self.refresh(lane)

    def refresh(self, lane: DestinationLane) -> None:
        """Bring line and counts up to date: something came or went in `lane`."""
        startable, free = len(lane.waiting), lane.limit - lane.running
        if startable > free:
            startable = max(0, free)
        if startable != lane.startable:
            self._count(lane, startable)
        if startable:
            if not lane.in_line:
                self._stand_in_line(lane)
        elif not lane.running and not lane.waiting:
            self._forget(lane)

    def suspend(self, lane: DestinationLane) -> None:
        """Nothing of `lane` may start for now; `refresh` brings it back."""
        self._count(lane, 0)

    def next(self) -> DestinationLane | None:
        """Who may start one now, or None. Then `start` one of it, or let it `suspend`."""
        line = self._line
        while line and self.running < self._slots:
            tenant = line.popleft()
            running = tenant.running
            if running >= MIN_SLOTS_PER_TENANT and running >= MAX_SHARE_OF_FREE_SLOTS * (self._slots - self.running):
                self._aside[tenant.name] = tenant
                continue
            lane = None
            while tenant.lanes and lane is None:
                lane = tenant.lanes.popleft()
                lane.in_line = False
                if not lane.startable:  # it had something when it lined up, and has no more
                    lane = None
            if tenant.lanes:
                line.append(tenant)
            else:
                tenant.in_line = False
            if lane is not None:
                return lane
        return None

    def start(self, lane: DestinationLane) -> Message:
        """One of `lane` runs from now on; if more may, it stands in line again."""
        lane.running += 1
        lane.tenant.running += 1
        self.running += 1
        self._count(lane, lane.startable - 1)
        if lane.startable:
            self._stand_in_line(lane)
        return lane.waiting.popleft()

    def end(self, lane: DestinationLane) -> None:
        """One of `lane` has ended."""
        tenant = lane.tenant
        lane.running -= 1
        tenant.running -= 1
        self.running -= 1
        if self._aside:
            # Its own tenant has another one now, and may have no further end to wait for; so may one of the others.
            if self._aside.pop(tenant.name, None):
                self._line.append(tenant)
            if self._aside:
                self._line.append(self._aside.popitem(last=False)[1])
        self.refresh(lane)

    def _stand_in_line(self, lane: DestinationLane) -> None:
        lane.in_line = True
        tenant = lane.tenant
        tenant.lanes.append(lane)
        if not tenant.in_line:
            tenant.in_line = True
            self._line.append(tenant)

    def _count(self, lane: DestinationLane, startable: int) -> None:
        tenant, most = lane.tenant, self._counted
        before = tenant.startable
        after = before + startable - lane.startable
        lane.startable = startable
        tenant.startable = after
        self.runnable += (after if after < most else most) - (before if before < most else most)  # noqa: FURB136

    def _forget(self, lane: DestinationLane) -> None:
        if self._lanes.pop(lane.key, None) is not None:
            lane.tenant.size -= 1
            if not lane.tenant.size:
                del self._tenants[lane.tenant.name]
