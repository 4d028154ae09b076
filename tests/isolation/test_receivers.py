"""A tenant whose receivers misbehave: the other tenant's deliveries arrive, and in time."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.isolation.installation import RETRY_S, Installation

pytestmark = [pytest.mark.serial, pytest.mark.asyncio(loop_scope="module")]

Figure = Callable[[str], None]

MAX_LATE_MS: Final = 1000
"""The server looks for due schedules once a second."""
KINDS: Final = ("slow", "silent", "drip", "reset", "big", "heads", "chunks")


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.long) for count in (1, 5, 20, 100))])
@pytest.mark.parametrize("kind", KINDS)
async def test_flooding_tenants_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, kind: str, count: int
) -> None:
    """Tenants with the most deliveries in flight and a misbehaving receiver leave slots to the others."""
    tenants = [f"{kind}-{count}-{number}" for number in range(count)]
    async with installation.flood(tenants, kind, each=max(10, 600 // count), max_in_flight=256):
        report = await installation.victim.run(installation.api, seconds=3 if count == 3 else 6)

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize(("destinations", "each"), [(200, 5), pytest.param(3000, 20, marks=pytest.mark.long)])
async def test_many_busy_destinations_of_one_tenant_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, destinations: int, each: int
) -> None:
    """A backlog over many destinations is not served before the delivery that another tenant requests now."""
    async with installation.flood([f"many-{destinations}"], "slow", destinations=destinations, each=each):
        report = await installation.victim.run(installation.api, seconds=3)

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize(
    ("count", "destinations"),
    [(1, 60), *(pytest.param(*each, marks=pytest.mark.long) for each in ((1, 1000), (20, 50)))],
)
async def test_failing_ordered_queues_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, count: int, destinations: int
) -> None:
    """The ordered queue of another tenant gets its turn while hundreds of queues start and their heads are retried."""
    tenants = [f"queues-{destinations}-{number}" for number in range(count)]
    async with installation.flood(tenants, "fail", destinations=destinations, each=3, ordering="fifo"):
        report = await installation.victim.run(installation.api, seconds=3, destination="queue")

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize(("destinations", "each"), [(100, 10), pytest.param(3000, 20, marks=pytest.mark.long)])
async def test_deliveries_of_deleted_destinations_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, destinations: int, each: int
) -> None:
    """They end without a request, all at once. An ordered delivery of another tenant takes many turns of the loop."""
    async with installation.flood([f"gone-{destinations}"], "silent", destinations=destinations, each=each):
        pass  # deleted with most of their deliveries
    report = await installation.victim.run(installation.api, seconds=3, destination="queue")

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize("count", [300, pytest.param(50_000, marks=pytest.mark.long)])
async def test_retries_that_come_due_at_once_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, count: int
) -> None:
    """Thousands of retries of one tenant fall due together, and the others' deliveries pass them."""
    tenant = f"due-{count}"
    waits: dict[str, Any] = {"retry_schedule_s": [max(2.0, count / 1000)] * 2, "max_in_flight": 256}
    async with installation.flood([tenant], "fail", each=count, **waits):
        await installation.until_scheduled(count * 9 // 10)
        report = await installation.victim.run(installation.api, seconds=max(4.0, count / 1000))

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize("each", [300, pytest.param(3400, marks=pytest.mark.long)])
async def test_many_quick_retries_of_one_destination_delay_no_other(
    installation: Installation, p99_ms: float, figure: Figure, each: int
) -> None:
    """Ten retries within milliseconds, of each of many deliveries: what one costs does not grow with the others."""
    quick: dict[str, Any] = {"retry_schedule_s": [0.01] * 10, "max_in_flight": 1024}
    async with installation.flood([f"quick-{each}"], "fail", each=each, **quick):
        report = await installation.victim.run(installation.api, seconds=3 if each == 300 else 15)

    figure(str(report))
    report.require(p99_ms)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.long)])
async def test_retries_of_one_tenant_do_not_make_those_of_others_late(
    installation: Installation, p99_ms: float, figure: Figure, count: int
) -> None:
    """A tenant retries each of its deliveries every second, and the retries of another are due at their time."""
    waits: dict[str, Any] = {"retry_schedule_s": [1.0] * 8, "max_in_flight": 256}
    async with installation.flood([f"retries-{count}"], "fail", destinations=10, each=count // 10, **waits):
        report = await installation.victim.run(installation.api, seconds=8, destination="retried")

    figure(str(report))
    report.require(RETRY_S * 1200 + MAX_LATE_MS + p99_ms)


async def test_a_response_body_of_runs_delays_no_other(
    installation: Installation, p99_ms: float, figure: Figure
) -> None:
    """Captured responses that make a pattern backtrack cost no more than others."""
    fields: dict[str, Any] = {"capture_response": True, "headers": {f"x-{n}": "a" * 1000 + str(n) for n in range(3)}}
    async with installation.flood(["runs"], "runs", each=20, **fields):
        report = await installation.victim.run(installation.api, seconds=3)

    figure(str(report))
    report.require(p99_ms)
