"""Fair scheduling: the slots of a worker, shared between tenants, and of a tenant between its destinations.

Deficit round robin in two levels, with one delivery as its unit. A tenant with a thousand destinations gets as many
starts as a tenant with one, as long as both have work. Each step costs the same, however many there are.

Round robin alone would let a tenant whose receivers are slow fill all slots over time. So the number that a tenant may
have in flight is bounded by the slots that are left free: see `MAX_SHARE_OF_FREE_SLOTS`.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Final

from messaging.message import Message

MAX_SHARE_OF_FREE_SLOTS: Final = 3
"""A tenant may fill this many times the free slots: alone it leaves a quarter free, two tenants leave a seventh."""
MIN_SLOTS_PER_TENANT: Final = 8
"""A tenant may have this many in flight as long as any slot is free."""
MAX_IDLE_LANES: Final = 1024
"""Lanes without work that are kept for their next message."""


class TenantQueue:
    """A tenant's lanes that may start a delivery, in their order."""

    __slots__ = ("is_ready", "lane_count", "lanes", "name", "running", "startable")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lanes: collections.deque[DestinationLane] = collections.deque()
        self.lane_count = 0
        """All lanes, including those that may start nothing."""
        self.running = 0
        self.startable = 0
        self.is_ready = False


class DestinationLane:
    """The waiting and running deliveries of one destination."""

    __slots__ = ("is_ready", "key", "limit", "running", "startable", "tenant", "waiting")

    def __init__(self, key: str, tenant: TenantQueue, limit: int) -> None:
        self.key = key
        """`<tenant>.<destination>`."""
        self.tenant = tenant
        self.limit = limit
        """The most that may run at a time."""
        self.waiting: collections.deque[Message] = collections.deque()
        self.running = 0
        self.startable = 0
        self.is_ready = False


class FairScheduler:
    """The lanes of a worker, and the order in which they start deliveries."""

    def __init__(self, slots: int, limit_of: Callable[[str], int]) -> None:
        """Create a scheduler without lanes.

        Args:
            slots: The most that may run at a time.
            limit_of: Returns how many deliveries of a lane may run at a time. Called for each new lane, and again
                after `refresh_limit`.
        """
        self._slots = slots
        self._limit_of = limit_of
        self._counted_per_tenant = max(1, slots // 8)
        self._lanes: dict[str, DestinationLane] = {}
        self._idle: dict[str, DestinationLane] = {}
        self._tenants: dict[str, TenantQueue] = {}
        self._suspended: collections.OrderedDict[str, TenantQueue] = collections.OrderedDict()
        self.ready: collections.deque[TenantQueue] = collections.deque()
        """Tenants that may start a delivery, in their order."""
        self.running = 0
        self.runnable = 0
        """Messages that could start now. Of each tenant at most an eighth of the slots counts: a longer backlog must
        not keep the worker from pulling the other tenants' messages."""

    def __iter__(self) -> Iterator[DestinationLane]:
        return iter(list(self._lanes.values()))

    def find(self, key: str) -> DestinationLane | None:
        """Return the lane, if it has had work recently."""
        return self._lanes.get(key)

    def refresh_limit(self, lane: DestinationLane) -> None:
        """Apply a changed limit."""
        if lane.key in self._idle:
            self._forget(lane)
        else:
            lane.limit = self._limit_of(lane.key)
            self.refresh(lane)

    def enqueue(self, key: str, message: Message) -> None:
        """Add a message to a lane."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._add_lane(key)
        elif key in self._idle:
            del self._idle[key]
        lane.waiting.append(message)
        self.refresh(lane)

    def _add_lane(self, key: str) -> DestinationLane:
        name = key.partition(".")[0]
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = TenantQueue(name)
        lane = self._lanes[key] = DestinationLane(key, tenant, self._limit_of(key))
        tenant.lane_count += 1
        return lane

    def refresh(self, lane: DestinationLane) -> None:
        """Update the order and the counts after messages of `lane` were added, started, ended or removed."""
        startable, free = len(lane.waiting), lane.limit - lane.running
        if startable > free:
            startable = max(0, free)
        if startable != lane.startable:
            self._count(lane, startable)
        if startable:
            if not lane.is_ready:
                self._make_ready(lane)
        elif not lane.running and not lane.waiting:
            self._idle[lane.key] = lane
            if len(self._idle) > MAX_IDLE_LANES:
                self._forget(next(iter(self._idle.values())))

    def suspend(self, lane: DestinationLane) -> None:
        """Start nothing of `lane` until `refresh` is called for it."""
        self._count(lane, 0)

    def next(self) -> DestinationLane | None:
        """Return the lane that may start a delivery now, or None. Then call `start` or `suspend` with it."""
        ready = self.ready
        while ready and self.running < self._slots:
            tenant = ready.popleft()
            running = tenant.running
            if running >= MIN_SLOTS_PER_TENANT and running >= MAX_SHARE_OF_FREE_SLOTS * (self._slots - self.running):
                self._suspended[tenant.name] = tenant
                continue
            lane = None
            while tenant.lanes and lane is None:
                lane = tenant.lanes.popleft()
                lane.is_ready = False
                if not lane.startable:  # its messages were removed since it became ready
                    lane = None
            if tenant.lanes:
                ready.append(tenant)
            else:
                tenant.is_ready = False
            if lane is not None:
                return lane
        return None

    def start(self, lane: DestinationLane) -> Message:
        """Start the next message of `lane`, which becomes ready again if more of its messages may start."""
        lane.running += 1
        lane.tenant.running += 1
        self.running += 1
        self._count(lane, lane.startable - 1)
        if lane.startable:
            self._make_ready(lane)
        return lane.waiting.popleft()

    def end(self, lane: DestinationLane) -> None:
        """End a started message of `lane`."""
        tenant = lane.tenant
        lane.running -= 1
        tenant.running -= 1
        self.running -= 1
        if self._suspended:
            # A slot became free. Its own tenant may have nothing else running, so no later end would resume it.
            if self._suspended.pop(tenant.name, None):
                self.ready.append(tenant)
            if self._suspended:
                self.ready.append(self._suspended.popitem(last=False)[1])
        self.refresh(lane)

    def _make_ready(self, lane: DestinationLane) -> None:
        lane.is_ready = True
        tenant = lane.tenant
        tenant.lanes.append(lane)
        if not tenant.is_ready:
            tenant.is_ready = True
            self.ready.append(tenant)

    def _count(self, lane: DestinationLane, startable: int) -> None:
        tenant, most = lane.tenant, self._counted_per_tenant
        before = tenant.startable
        after = before + startable - lane.startable
        lane.startable = startable
        tenant.startable = after
        self.runnable += (after if after < most else most) - (before if before < most else most)  # noqa: FURB136

    def _forget(self, lane: DestinationLane) -> None:
        del self._idle[lane.key], self._lanes[lane.key]
        lane.tenant.lane_count -= 1
        if not lane.tenant.lane_count:
            del self._tenants[lane.tenant.name]
