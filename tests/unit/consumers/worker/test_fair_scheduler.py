"""Fair scheduling: tenants alternate, their lanes alternate, and every limit is kept."""

from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.worker import fair_scheduler
from consumers.worker.fair_scheduler import (
    MAX_AHEAD,
    MAX_AHEAD_IN_A_ROW,
    MAX_SHARE_OF_FREE_SLOTS,
    MAX_WAITING,
    REPLAYED,
    UNIT_BYTES,
    DestinationLane,
    FairScheduler,
)
from messaging.message import Message

MESSAGE = cast("Message", SimpleNamespace(data=b"", identity="1", header_block=b""))
"""Nothing else of a message is looked at here."""


class Bench:
    """Turns with a limit for each lane, as the runtime uses them."""

    def __init__(self, slots: int, *, limit: int = 1_000_000, limits: dict[str, int] | None = None) -> None:
        self.turns = FairScheduler(slots, self.limit)
        self.slots = slots
        self._limit = limit
        self._limits = limits or {}
        self.running: list[DestinationLane] = []
        self.starts: list[str] = []

    def limit(self, key: str) -> int:
        """Return how many deliveries of a lane may run."""
        return self._limits.get(key, self._limit)

    def arrive(self, key: str, count: int = 1) -> None:
        """Add deliveries of a lane."""
        for _ in range(count):
            self.turns.enqueue(key, MESSAGE)

    def start_one(self) -> str | None:
        """Start the next delivery."""
        lane = self.turns.next()
        if lane is None:
            return None
        self.turns.start(lane)
        self.running.append(lane)
        self.starts.append(lane.key)
        return lane.key

    def start_all(self) -> None:
        """Start deliveries while slots are free."""
        while self.start_one():
            pass

    def end(self, place: int = 0) -> None:
        """End the delivery that runs at `place`."""
        lane = self.running.pop(place)
        self.turns.end(lane)


def test_a_tenant_with_many_destinations_gets_as_many_starts_as_one_with_one() -> None:
    """With a thousand lanes of one tenant and one of another, every second start is the other tenant's."""
    bench = Bench(slots=1000, limit=100)
    for number in range(1000):
        bench.arrive(f"many.d{number}")
    bench.arrive("few.d", 20 + MAX_AHEAD)

    for _ in range(40):
        bench.start_one()

    assert bench.starts[1::2] == ["few.d"] * 20
    assert len(set(bench.starts[0::2])) == 20, "and among its own lanes the turns go round"


def test_a_tenant_with_a_short_backlog_comes_before_a_hundred_with_long_ones() -> None:
    """It waits for no turn of each of the others."""
    bench = Bench(slots=10_000, limit=1000)
    for number in range(100):
        bench.arrive(f"long{number}.d", 50)
    for _ in range(150):
        bench.start_one()

    bench.arrive("short.d")
    bench.arrive("short.e")

    assert [bench.start_one(), bench.start_one()] == ["short.d", "short.e"]


def test_a_tenant_with_a_short_backlog_comes_before_a_hundred_whose_backlogs_have_just_begun() -> None:
    """The first message of a long backlog arrives like that of a short one."""
    bench = Bench(slots=10_000, limit=1000)
    for number in range(100):
        bench.arrive(f"long{number}.d", 10)

    bench.arrive("short.d")

    assert bench.start_one() == "short.d"


def test_a_tenant_with_a_short_backlog_comes_before_one_at_the_end_of_a_long_backlog() -> None:
    """The last messages of a long backlog come at their tenant's turn, as the first ones did."""
    bench = Bench(slots=10_000, limit=1000)
    for number in range(100):
        bench.arrive(f"long{number}.d", 10)
    for _ in range(601):
        bench.start_one()

    bench.arrive("short.d")

    assert bench.start_one() == "short.d"


def test_a_backlog_that_has_ended_is_no_long_one() -> None:
    """It has ended when nothing waits, whether it was started or withdrawn."""
    bench = Bench(slots=10_000, limit=1000)
    bench.arrive("started.d", 10)
    bench.start_all()
    bench.arrive("withdrawn.d", 10)
    lane = bench.turns.find("withdrawn.d")
    assert lane is not None
    bench.turns.withdraw(lane, list(lane.waiting))
    for number in range(100):
        bench.arrive(f"long{number}.d", 50)
    for _ in range(150):
        bench.start_one()

    bench.arrive("started.d")
    bench.arrive("withdrawn.d")

    assert [bench.start_one(), bench.start_one()] == ["started.d", "withdrawn.d"]


def test_a_large_message_is_a_short_backlog() -> None:
    """Messages count, and not their bytes."""
    bench = Bench(slots=10_000, limit=1000)
    for number in range(100):
        bench.arrive(f"long{number}.d", 50)
    for _ in range(150):
        bench.start_one()

    bench.turns.enqueue("large.d", cast("Message", SimpleNamespace(data=b"x" * 60_000, identity="2", header_block=b"")))

    assert bench.start_one() == "large.d"


def test_a_tenant_with_a_short_backlog_comes_first_often_in_a_long_round() -> None:
    """While a hundred tenants with long backlogs have one start each, it has twenty, none after a long wait."""
    bench = Bench(slots=10_000, limit=1000)
    for number in range(100):
        bench.arrive(f"long{number}.d", 50)
    for _ in range(150):
        bench.start_one()

    for _ in range(20):
        bench.arrive("short.d")
        assert "short.d" in {bench.start_one(), bench.start_one()}


def test_many_tenants_with_short_backlogs_leave_every_fifth_start_to_others() -> None:
    """However many come first, those with long backlogs go on."""
    bench = Bench(slots=100_000, limit=100_000)
    bench.arrive("long.d", 1000)
    for _ in range(40):
        for number in range(80):
            bench.arrive(f"short{number}.d")
        for _ in range(100):
            bench.start_one()

    late = bench.starts[2 * MAX_AHEAD_IN_A_ROW :]
    assert late.count("long.d") >= len(late) // (1 + MAX_AHEAD)


def test_tenants_that_always_have_one_delivery_leave_the_others_their_turn() -> None:
    """A tenant may come first four times in a round, and takes its turn among the others for what is beyond."""
    bench = Bench(slots=100_000, limit=100_000)
    for number in range(10):
        bench.arrive(f"long{number}.d", 1000)
    quick = [f"quick{number}.d" for number in range(10)]
    for lane in quick:
        bench.arrive(lane)

    for _ in range(2000):
        started = bench.start_one()
        if started in quick:
            bench.end(len(bench.running) - 1)
            bench.arrive(started)

    counts = Counter(bench.starts)
    assert min(counts[f"long{number}.d"] for number in range(10)) >= 2000 // 20 // (1 + MAX_AHEAD)
    assert max(counts.values()) <= (1 + MAX_AHEAD) * 2000 // 20


def test_live_messages_of_a_lane_start_before_replayed_ones() -> None:
    """Each kind keeps its order, also after some of the messages were withdrawn."""
    turns = FairScheduler(10, lambda _: 10)
    kinds = "rlrllrl"
    messages = [
        cast(
            "Message",
            SimpleNamespace(data=b"", identity=f"{kind}{number}", header_block=REPLAYED if kind == "r" else b""),
        )
        for number, kind in enumerate(kinds)
    ]
    for message in messages:
        turns.enqueue("a.d", message)
    lane = turns.find("a.d")
    assert lane is not None

    turns.withdraw(lane, [messages[1], messages[2]])
    turns.enqueue("a.d", MESSAGE)
    started = [turns.start(lane).identity for lane in iter(turns.next, None)]

    assert started == ["l3", "l4", "l6", "1", "r0", "r5"]


def test_a_tenant_that_fills_the_slots_leaves_some() -> None:
    """A quarter of the slots stays free for other tenants, who start at once."""
    bench = Bench(slots=256, limit=8)
    for number in range(200):
        bench.arrive(f"flooder.d{number}", 100)
    bench.start_all()
    taken = len(bench.running)
    bench.arrive("other.d")

    assert taken == 256 * MAX_SHARE_OF_FREE_SLOTS // (MAX_SHARE_OF_FREE_SLOTS + 1)
    assert bench.start_one() == "other.d"


@pytest.mark.parametrize("flooders", [2, 5, 20, 100, 256, 400])
def test_several_that_fill_the_slots_share_them_and_still_leave_some(flooders: int) -> None:
    """They have equal shares, and a later tenant starts without waiting for any of them."""
    bench = Bench(slots=256, limit=256)
    for number in range(20 * flooders):
        bench.arrive(f"flooder-{number % flooders}.d{number % 200}", 10)
    bench.start_all()
    shares = Counter(lane.tenant.name for lane in bench.running)
    bench.arrive("other.d")

    assert max(shares.values()) - min(shares.values()) <= 1
    assert bench.start_one() == "other.d"


def test_a_tenant_alone_uses_a_worker_with_one_slot() -> None:
    """A tenant with nothing in flight may always start one delivery, up to as many tenants as there are slots."""
    bench = Bench(slots=1)
    for tenant in "abc":
        bench.arrive(f"{tenant}.d", 100)
    bench.start_all()

    assert bench.starts == ["a.d", "b.d"]
    bench.end()
    bench.start_all()
    assert bench.starts == ["a.d", "b.d", "c.d"], "the tenant that has waited longest comes first"


def test_a_slot_does_not_stay_with_one_tenant() -> None:
    """When a slot becomes free, the tenant that has waited longest starts, before the one that had the slot."""
    bench = Bench(slots=4)
    bench.arrive("greedy.d", 100)
    bench.start_all()
    for tenant in "abc":
        bench.arrive(f"{tenant}.d", 100)
    bench.start_all()
    for _ in range(30):
        bench.end()
        bench.start_all()

    starts = Counter(bench.starts[-20:])
    assert min(starts[f"{tenant}.d"] for tenant in ("greedy", "a", "b", "c")) >= 4, starts


def test_a_suspended_tenant_continues_when_slots_are_free() -> None:
    """Ended deliveries of any tenant resume it until all are done."""
    bench = Bench(slots=32)
    for number in range(10):
        bench.arrive(f"t{number}.d", 50)
    bench.start_all()
    while bench.running:
        bench.end()
        bench.start_all()

    assert Counter(bench.starts) == {f"t{number}.d": 50 for number in range(10)}


@pytest.mark.parametrize("flooders", [1, 5, 100])
def test_a_surplus_is_refused_and_others_have_room(flooders: int) -> None:
    """However many tenants fill the room, each has an equal share, and another tenant's message is accepted."""
    bench = Bench(slots=1, limit=1)
    accepted = Counter(
        number % flooders
        for number in range(2 * MAX_WAITING)
        if bench.turns.enqueue(f"flooder-{number % flooders}.d{number % 7}", MESSAGE)
    )

    assert len(accepted) == flooders
    assert max(accepted.values()) - min(accepted.values()) <= 1
    assert accepted[0] >= MAX_WAITING // (flooders + 2)
    assert all(bench.turns.enqueue("other.d", MESSAGE) for _ in range(accepted[0] // 2))


def test_large_messages_take_more_room() -> None:
    """Each further 4 KiB of a body counts as a message."""
    bench = Bench(slots=1)
    large = cast("Message", SimpleNamespace(data=bytes(63 * UNIT_BYTES), identity="2", header_block=b""))
    count = sum(bench.turns.enqueue("a.d", large) for _ in range(MAX_WAITING))

    assert count == MAX_WAITING // 3 // 64
    assert bench.turns.waiting == count * 64


def test_what_starts_or_is_withdrawn_frees_its_room() -> None:
    """Nothing is counted as waiting when nothing waits."""
    bench = Bench(slots=2)
    bench.arrive("a.d", 5)
    bench.start_all()
    (lane,) = bench.turns
    bench.turns.withdraw(lane, [MESSAGE])

    assert not lane.waiting
    assert (bench.turns.waiting, lane.tenant.waiting) == (0, 0)


def test_a_suspended_lane_delays_no_other() -> None:
    """It starts after it is refreshed."""
    bench = Bench(slots=10)
    bench.arrive("a.rated", 2)
    bench.arrive("a.free")
    first = bench.turns.next()
    assert first is not None
    assert first.key == "a.rated"
    bench.turns.suspend(first)

    assert bench.start_one() == "a.free"
    assert bench.start_one() is None
    bench.turns.refresh(first)
    assert bench.start_one() == "a.rated"


def test_idle_lanes_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes that have been idle longest are forgotten first, and with its last lane their tenant."""
    monkeypatch.setattr(fair_scheduler, "MAX_IDLE_LANES", 2)
    bench = Bench(slots=10)
    for key in ("a.x", "b.x", "b.y", "a.x", "c.x"):
        bench.arrive(key)
        bench.start_all()
        bench.end()

    assert [lane.key for lane in bench.turns] == ["a.x", "c.x"]
    assert bench.turns.find("b.x") is None
    assert list(bench.turns._tenants) == ["a", "c"]  # pyright: ignore[reportPrivateUsage]
    assert (bench.turns.running, bench.turns.waiting) == (0, 0)


def test_a_changed_limit_forgets_an_idle_lane() -> None:
    """The limit is read again with the lane's next message, and nothing is remembered until then."""
    bench = Bench(slots=10, limits={"a.x": 1})
    bench.arrive("a.x")
    bench.start_all()
    bench.end()
    (lane,) = bench.turns
    bench.turns.refresh_limit(lane)
    forgotten = (list(bench.turns), dict(bench.turns._tenants))  # pyright: ignore[reportPrivateUsage]
    bench.arrive("a.x")

    assert forgotten == ([], {})
    assert bench.start_one() == "a.x"


KEYS = st.sampled_from([f"{tenant}.{destination}" for tenant in "abc" for destination in "xyz"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), KEYS),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("start"), st.none()),
    ),
    max_size=200,
)


@given(
    steps=STEPS,
    slots=st.integers(1, 40),
    limits=st.dictionaries(KEYS, st.integers(0, 4), max_size=9),
    limit=st.integers(1, 12),
)
def test_limits_are_kept_and_no_lane_starves(
    steps: list[tuple[str, str | int | None]], slots: int, limits: dict[str, int], limit: int
) -> None:
    """No limit is exceeded, and every lane with a limit above zero starts all its deliveries."""
    bench = Bench(slots, limit=limit, limits=limits)
    arrived: Counter[str] = Counter()

    def check() -> None:
        by_lane = Counter(lane.key for lane in bench.running)
        by_tenant = Counter(lane.tenant.name for lane in bench.running)
        assert len(bench.running) == bench.turns.running < slots + len(by_tenant)
        assert all(count <= bench.limit(key) for key, count in by_lane.items())

    for step, what in steps:
        if step == "arrive":
            bench.arrive(str(what))
            arrived[str(what)] += 1
        elif step == "start":
            bench.start_one()
        elif bench.running:
            bench.end(int(what or 0) % len(bench.running))
        check()
    bench.start_all()
    check()
    while bench.running:
        bench.end()
        bench.start_all()
        check()

    assert Counter(bench.starts) == {key: count for key, count in arrived.items() if bench.limit(key) > 0}


@given(
    lanes=st.dictionaries(KEYS, st.integers(1, 30), min_size=1),
    slots=st.integers(100, 300),
    rounds=st.integers(1, 60),
)
def test_shares_differ_by_a_few_at_most_while_both_have_work(lanes: dict[str, int], slots: int, rounds: int) -> None:
    """After any number of starts, two tenants with work differ by one at most."""
    bench = Bench(slots)
    for key, count in lanes.items():
        bench.arrive(key, count)
    left = Counter(lanes)

    for _ in range(rounds):
        if started := bench.start_one():
            left[started] -= 1
            bench.end()

    by_tenant = Counter(key.partition(".")[0] for key in bench.starts)
    busy = {key.partition(".")[0] for key, count in left.items() if count > 0}
    for tenant in busy:
        by_lane = [bench.starts.count(key) for key, count in left.items() if count > 0 and key.startswith(tenant)]
        assert max(by_lane) - min(by_lane) <= 1
    difference = max((by_tenant[tenant] for tenant in busy), default=0) - min((by_tenant[t] for t in busy), default=0)
    assert difference <= 1 + MAX_AHEAD, "the last of a backlog may come first"
