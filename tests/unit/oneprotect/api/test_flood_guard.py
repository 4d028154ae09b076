"""Requests over NATS: a flooding tenant is paused."""

import asyncio
from collections.abc import Sequence

import pytest

from oneprotect.api.nats_service import flood_guard
from oneprotect.api.nats_service.flood_guard import REFUSED_BYTES_PER_S, REFUSED_PER_S, FloodGuard
from schemas import subjects
from tests.support.waiting import until


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
