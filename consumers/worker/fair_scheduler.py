"""Fair scheduling: the slots and the memory of a worker, shared between tenants, and of a tenant between destinations.

Deficit round robin in two levels, with one delivery as its unit. A tenant with a thousand destinations gets as many
starts as a tenant with one, as long as both have work. Each step costs the same, however many there are.

Round robin alone would let tenants whose receivers are slow fill all slots over time. So the number that a tenant may
have in flight is bounded by the slots that are left free: see `MAX_SHARE_OF_FREE_SLOTS`. With many such tenants no slot
is left. So a tenant with nothing in flight needs no free slot: its first delivery starts beyond them.

Turns alone would also let a tenant with little work wait for a turn of each of the others. So a tenant with a short
backlog comes first, a few times in each round: see `MAX_AHEAD`. The end of a long backlog is no short one.

Within a destination, live deliveries start before those of a replay.

What waits is bounded alike, by the room that is left: see `MAX_WAITING`. A tenant's surplus is refused, so the worker
always has room for the messages of the others.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from messaging.message import Message
from schemas.headers import HEADER_REPLAY

MAX_SHARE_OF_FREE_SLOTS: Final = 3
"""A tenant may fill this many times the free slots: alone it leaves a quarter free, two tenants leave a seventh."""
MAX_AHEAD: Final = 4
"""A tenant comes first if at most as many messages of it have waited since none did: as often in each round of the
others, or once for so many of them if that is more. For each start of the others, so many starts of tenants that come
first are allowed.
"""
MAX_AHEAD_IN_A_ROW: Final = 1024
"""Such starts that are allowed at most, after many of the others."""
MAX_WAITING: Final = 16_384
"""Room for waiting messages. A tenant may fill half of what is free: alone a third, and two tenants half together."""
MIN_WAITING: Final = 8
"""As much of a tenant may always wait."""
UNIT_BYTES: Final = 4096
"""A message takes one unit of the room, and another one for each of these bytes of its body."""
REPLAYED: Final = f"\r\n{HEADER_REPLAY}:".encode()
"""Part of the headers of a message that a replay requested, and of its retries."""
MAX_IDLE_LANES: Final = 1024
"""Lanes without work that are kept for their next message."""


class TenantQueue:
    """A tenant's lanes that may start a delivery, in their order."""

    __slots__ = (
        "ahead",
        "is_long",
        "is_ready",
        "lane_count",
        "lanes",
        "messages",
        "name",
        "round",
        "running",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.lanes: collections.deque[DestinationLane] = collections.deque()
        self.lane_count = 0
        """All lanes, including those that may start nothing."""
        self.running = 0
        self.messages = 0
        """Messages that wait."""
        self.is_long = False
        """More than `MAX_AHEAD` have waited since none did."""
        self.waiting = 0
        """Room that they take, in units."""
        self.is_ready = False
        self.ahead = 0
        """Starts before the others in the present round."""
        self.round = 0
        """Turn with which that round began."""


class DestinationLane:
    """The waiting and running deliveries of one destination."""

    __slots__ = ("is_ready", "key", "limit", "live", "running", "startable", "tenant", "waiting")

    def __init__(self, key: str, tenant: TenantQueue, limit: int) -> None:
        self.key = key
        """`<tenant>.<destination>`."""
        self.tenant = tenant
        self.limit = limit
        """The most that may run at a time."""
        self.waiting: collections.deque[Message] = collections.deque()
        """Replayed messages wait behind the others."""
        self.live = 0
        """Waiting messages that are not replayed."""
        self.running = 0
        self.startable = 0
        self.is_ready = False


class FairScheduler:
    """The lanes of a worker, and the order in which they start deliveries."""

    def __init__(self, slots: int, limit_of: Callable[[str], int], *, room: int = MAX_WAITING) -> None:
        """Create a scheduler without lanes.

        Args:
            slots: The most that may run at a time. As many more may run, each the only one of its tenant.
            limit_of: Returns how many deliveries of a lane may run at a time. Called for each new lane, and again
                after `refresh_limit`.
            room: The messages, in units, that may wait.
        """
        self._slots = slots
        self._room = room
        self._limit_of = limit_of
        self._lanes: dict[str, DestinationLane] = {}
        self._idle: dict[str, DestinationLane] = {}
        self._tenants: dict[str, TenantQueue] = {}
        self._suspended: collections.OrderedDict[str, TenantQueue] = collections.OrderedDict()
        self._first: collections.deque[TenantQueue] = collections.deque()
        self._others: collections.deque[TenantQueue] = collections.deque()
        self._turns = 0
        self._ahead = MAX_AHEAD_IN_A_ROW
        """Starts ahead of the others that are allowed now."""
        self.ready = 0
        """Tenants that may start a delivery."""
        self.running = 0
        self.waiting = 0
        """Room that waiting messages take, in units."""

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

    def enqueue(self, key: str, message: Message, *, is_bounded: bool = True) -> bool:
        """Add a message to a lane. Returns False, and adds nothing, when its tenant has filled its share of the room.

        Without `is_bounded` the message is always added.
        """
        lane = self._lanes.get(key)
        tenant = self._tenants.get(key.partition(".")[0]) if lane is None else lane.tenant
        units = 1 + len(message.data) // UNIT_BYTES
        if (
            is_bounded
            and tenant is not None
            and tenant.waiting >= MIN_WAITING
            and 2 * (tenant.waiting + units) > self._room - self.waiting
        ):
            return False
        if lane is None:
            lane = self._add_lane(key, tenant)
        elif key in self._idle:
            del self._idle[key]
        if REPLAYED in message.header_block:
            lane.waiting.append(message)
        else:
            if lane.live == len(lane.waiting):
                lane.waiting.append(message)
            else:
                lane.waiting.insert(lane.live, message)
            lane.live += 1
        tenant = lane.tenant
        tenant.messages += 1
        if tenant.messages > MAX_AHEAD:
            tenant.is_long = True
        tenant.waiting += units
        self.waiting += units
        self.refresh(lane)
        return True

    def _add_lane(self, key: str, tenant: TenantQueue | None) -> DestinationLane:
        if tenant is None:
            name = key.partition(".")[0]
            tenant = self._tenants[name] = TenantQueue(name)
        lane = self._lanes[key] = DestinationLane(key, tenant, self._limit_of(key))
        tenant.lane_count += 1
        return lane

    def withdraw(self, lane: DestinationLane, messages: Iterable[Message]) -> None:
        """Remove waiting messages of `lane`."""
        removed = {message.identity for message in messages}
        units = sum(1 + len(message.data) // UNIT_BYTES for message in lane.waiting if message.identity in removed)
        lane.tenant.messages -= len(lane.waiting)
        lane.waiting = collections.deque(message for message in lane.waiting if message.identity not in removed)
        lane.live = sum(REPLAYED not in message.header_block for message in lane.waiting)
        lane.tenant.messages += len(lane.waiting)
        if not lane.tenant.messages:
            lane.tenant.is_long = False
        lane.tenant.waiting -= units
        self.waiting -= units
        self.refresh(lane)

    def refresh(self, lane: DestinationLane) -> None:
        """Update the order after messages of `lane` were added, started, ended or removed."""
        startable, free = len(lane.waiting), lane.limit - lane.running
        if startable > free:
            startable = max(0, free)
        lane.startable = startable
        if startable:
            if not lane.is_ready:
                self._make_ready(lane)
        elif not lane.running and not lane.waiting:
            self._idle[lane.key] = lane
            if len(self._idle) > MAX_IDLE_LANES:
                self._forget(next(iter(self._idle.values())))

    def suspend(self, lane: DestinationLane) -> None:
        """Start nothing of `lane` until `refresh` is called for it."""
        lane.startable = 0

    def next(self) -> DestinationLane | None:
        """Return the lane that may start a delivery now, or None. Then call `start` or `suspend` with it."""
        slots = self._slots
        while self.ready:
            tenant = self._next_tenant()
            self.ready -= 1
            free, running = slots - self.running, tenant.running
            # A tenant with nothing in flight needs no free slot.
            if (running >= MAX_SHARE_OF_FREE_SLOTS * free) if running else (free <= -slots):
                self._suspended[tenant.name] = tenant
                continue
            lanes, lane = tenant.lanes, None
            while lanes and lane is None:
                lane = lanes.popleft()
                lane.is_ready = False
                if not lane.startable:  # its messages were removed since it became ready
                    lane = None
            if lanes:
                self._append(tenant)
            else:
                tenant.is_ready = False
            if lane is not None:
                return lane
        return None

    def _next_tenant(self) -> TenantQueue:
        """Take the tenant whose turn it is."""
        first, others = self._first, self._others
        while first and (self._ahead or not others):
            tenant = first.popleft()
            if not tenant.is_long:
                self._ahead -= bool(others)
                return tenant
            others.append(tenant)  # more has arrived since
        self._turns += 1
        if self._ahead < MAX_AHEAD_IN_A_ROW:
            self._ahead += MAX_AHEAD
        return others.popleft()

    def start(self, lane: DestinationLane) -> Message:
        """Start the next message of `lane`, which becomes ready again if more of its messages may start."""
        tenant = lane.tenant
        lane.running += 1
        tenant.running += 1
        self.running += 1
        lane.startable -= 1
        if lane.startable:
            self._make_ready(lane)
        message = lane.waiting.popleft()
        if lane.live:
            lane.live -= 1
        units = 1 + len(message.data) // UNIT_BYTES
        tenant.messages -= 1
        if not tenant.messages:
            tenant.is_long = False
        tenant.waiting -= units
        self.waiting -= units
        return message

    def end(self, lane: DestinationLane) -> None:
        """End a started message of `lane`."""
        tenant = lane.tenant
        lane.running -= 1
        tenant.running -= 1
        self.running -= 1
        if self._suspended:
            # A slot became free. Its own tenant may have nothing else running, so no later end would resume it. But
            # the tenant that has waited longest comes first: the slot does not stay with one tenant.
            is_suspended = self._suspended.pop(tenant.name, None) is not None
            if self._suspended:
                self._append(self._suspended.popitem(last=False)[1])
            if is_suspended:
                self._append(tenant)
        self.refresh(lane)

    def _make_ready(self, lane: DestinationLane) -> None:
        lane.is_ready = True
        tenant = lane.tenant
        tenant.lanes.append(lane)
        if not tenant.is_ready:
            tenant.is_ready = True
            self._append(tenant)

    def _append(self, tenant: TenantQueue) -> None:
        """Give a tenant its next turn."""
        self.ready += 1
        others = self._others
        if not tenant.is_long:
            count = len(others)
            if self._turns - tenant.round > count:  # each of the others has had a turn since
                tenant.round, tenant.ahead = self._turns, 0
            if tenant.ahead < MAX_AHEAD or tenant.ahead < count // MAX_AHEAD:
                tenant.ahead += 1
                self._first.append(tenant)
                return
        others.append(tenant)

    def _forget(self, lane: DestinationLane) -> None:
        del self._idle[lane.key], self._lanes[lane.key]
        lane.tenant.lane_count -= 1
        if not lane.tenant.lane_count:
            del self._tenants[lane.tenant.name]
