"""Requests over NATS: tenants take turns, within bounds, and a flooding tenant is paused."""

import asyncio
from collections.abc import Sequence

import pytest

from oneprotect.api.nats_service import flood_guard, turns
from oneprotect.api.nats_service.flood_guard import REFUSED_BYTES_PER_S, REFUSED_PER_S, FloodGuard
from oneprotect.api.nats_service.turns import TenantTurns
from schemas import subjects
from tests.support.waiting import until


def test_tenants_take_turns() -> None:
    """A tenant with one request starts it after one request of each other tenant."""
    queue = TenantTurns[int]()
    for number in range(10):
        assert queue.add("flood", number, 1)
    assert queue.add("other", 0, 1)

    started = [queue.start() for _ in range(3)]

    assert started == [("flood", 0, 1), ("other", 0, 1), ("flood", 1, 1)]


def test_a_tenant_has_one_large_request_in_progress() -> None:
    """The time that a request takes from the others grows with its size."""
    queue = TenantTurns[int]()
    for number in range(3):
        queue.add("large", number, 400_000)
    queue.add("small", 0, 100)

    assert queue.start() == ("large", 0, 400_000)
    assert queue.start() == ("small", 0, 100)
    assert queue.start() is None
    queue.end("large", 400_000)
    assert queue.start() == ("large", 1, 400_000)


def test_a_tenant_leaves_places_free() -> None:
    """One tenant fills its own places only, and an ended request frees one."""
    queue = TenantTurns[int]()
    for number in range(100):
        queue.add("flood", number, 1)
    started = 0
    while queue.start():
        started += 1
    queue.add("other", 0, 1)

    assert started == turns.IN_PROGRESS_PER_TENANT
    assert queue.start() == ("other", 0, 1)
    assert queue.start() is None
    queue.end("flood", 1)
    assert queue.start() == ("flood", turns.IN_PROGRESS_PER_TENANT, 1)


def test_all_tenants_together_are_bounded() -> None:
    """No more requests are in progress than the process has places."""
    queue = TenantTurns[int]()
    for number in range(1000):
        queue.add(f"tenant-{number}", 0, 1)

    started = 0
    while queue.start():
        started += 1

    assert started == turns.IN_PROGRESS


def test_waiting_requests_are_bounded_by_count_and_bytes() -> None:
    """A tenant is refused at its bound, and every tenant may always have one request waiting."""
    queue = TenantTurns[int]()
    counted = sum(queue.add("many", number, 1) for number in range(10_000))
    sized = sum(queue.add("large", number, 1024 * 1024) for number in range(100))
    filled = [sum(queue.add(f"t-{tenant}", n, 1024 * 1024) for n in range(100)) for tenant in range(20)]

    assert counted == turns.WAITING_PER_TENANT
    assert sized == turns.WAITING_BYTES_PER_TENANT // (1024 * 1024)
    assert sum(filled) <= turns.WAITING_BYTES // (1024 * 1024) + 20
    assert min(filled) == 1


async def test_a_flood_ends_the_subscription_to_its_tenant_for_a_while() -> None:
    """Meanwhile the tenants that used the service are subscribed one by one."""
    received: list[Sequence[str]] = []

    async def receive_on(wanted: Sequence[str]) -> None:
        received.append(wanted)

    guard = FloodGuard(receive_on, lambda: ("acme", "initech", "known"))
    for tenant in ("acme", "globex", "initech"):
        guard.note(tenant)
    for _ in range(REFUSED_PER_S):
        guard.note_refusal("acme", 10)
    await asyncio.sleep(0)
    assert received == []
    guard.note_refusal("acme", 10)
    assert guard.is_paused("acme")
    guard.note_refusal("globex", REFUSED_BYTES_PER_S)  # few, and large

    await until(lambda: received[-1:] == [[subjects.deliveries("*")]], 10)
    assert received[0] == [subjects.deliveries("initech"), subjects.deliveries("known")]
    assert not guard.is_paused("acme")


async def test_a_few_requests_that_are_too_large_cause_no_pause() -> None:
    """A program whose requests exceed the limit is refused, and may correct them at once."""

    async def receive_on(_: Sequence[str]) -> None:
        raise AssertionError

    guard = FloodGuard(receive_on, lambda: ())
    for _ in range(8):
        guard.note_refusal("acme", 900_000)

    assert not guard.is_paused("acme")


async def test_tenants_served_during_a_pause_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that used the service last come first."""
    monkeypatch.setattr(flood_guard, "MAX_TENANTS", 3)
    received: list[Sequence[str]] = []

    async def receive_on(wanted: Sequence[str]) -> None:
        received.append(wanted)

    guard = FloodGuard(receive_on, lambda: (f"known-{number}" for number in range(9)))
    for tenant in ("one", "two"):
        guard.note(tenant)
    guard.note_refusal("acme", REFUSED_BYTES_PER_S)
    await until(lambda: received, 10)
    await guard.stop()

    assert received[0] == [subjects.deliveries(name) for name in ("two", "one", "known-0")]


async def test_a_pause_ends_although_a_subscription_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subscription to all tenants is tried again."""
    monkeypatch.setattr(flood_guard, "PAUSE_S", 0.1)
    monkeypatch.setattr(flood_guard, "RETRY_S", 0.01)
    tried: list[Sequence[str]] = []

    async def receive_on(wanted: Sequence[str]) -> None:
        tried.append(wanted)
        if len(tried) < 4:
            raise ConnectionError("closed")

    guard = FloodGuard(receive_on, lambda: ())
    guard.note_refusal("acme", REFUSED_BYTES_PER_S)
    await until(lambda: len(tried) == 4, 10)

    assert not guard.is_paused("acme")
    assert tried == [[], *[[subjects.deliveries("*")]] * 3]


async def test_a_flood_while_a_pause_ends_begins_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tenant is served again after that one."""
    monkeypatch.setattr(flood_guard, "PAUSE_S", 0.1)
    received: list[Sequence[str]] = []

    async def receive_on(wanted: Sequence[str]) -> None:
        received.append(wanted)
        if len(received) == 2:
            guard.note_refusal("globex", REFUSED_BYTES_PER_S)

    guard = FloodGuard(receive_on, lambda: ())
    guard.note_refusal("acme", REFUSED_BYTES_PER_S)
    await until(lambda: len(received) == 4, 10)

    assert not guard.is_paused("globex")
    assert received == [[], [subjects.deliveries("*")]] * 2
