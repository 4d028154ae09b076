"""The route of one delivery through the product's modules, short enough to be read from end to end."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import pytest

from messaging.message import Message
from messaging.pull_consumer import PullConsumer
from schemas import subjects
from schemas.control_messages import RefreshSecrets
from schemas.ids import new_delivery_id
from tests.support.logs import product_logging
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until

MAX_MODULES: Final = {200: 30, 500: 36}
"""Modules that a delivery with everything in memory visits at most, by the receiver's status."""
MAX_REENTRIES: Final = {200: 31, 500: 42}
"""How often at most that delivery enters a module that it had left before."""
ROUNDS: Final = 10

_ROOT: Final = Path(__file__).parents[3]
_PRODUCT: Final = tuple(
    f"{_ROOT / name}/" for name in ("schemas", "provider", "messaging", "telemetry", "consumers", "oneprotect")
)
_RECEIVE: Final = PullConsumer._receive.__code__  # pyright: ignore[reportPrivateUsage] - where a delivery comes in
_ACKNOWLEDGE: Final = Message.ack.__code__


class RouteTrace:
    """The product's modules in the order in which one delivery visits them, from its pull to its acknowledgement."""

    def __init__(self, subject: str) -> None:
        self.calls: list[tuple[str, str]] = []
        self.acknowledged = asyncio.Event()
        self._subject = subject

    def start(self) -> None:
        """Record the next message of the subject until it is acknowledged."""
        sys.setprofile(self._on_event)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_PRODUCT):
            if self.calls or (code is _RECEIVE and frame.f_locals["subject"] == self._subject.encode()):
                self.calls.append((code.co_filename.removeprefix(f"{_ROOT}/"), code.co_qualname))
        elif event == "return" and code is _ACKNOWLEDGE and frame.f_locals["self"].subject == self._subject:
            sys.setprofile(None)
            self.acknowledged.set()

    @property
    def visits(self) -> list[str]:
        """The modules in the order of their visits: calls within a module are one visit."""
        modules = [module for module, _ in self.calls]
        return [module for before, module in zip(["", *modules], modules, strict=False) if module != before]

    @property
    def modules(self) -> int:
        """How many modules were visited."""
        return len(set(self.visits))

    @property
    def reentries(self) -> int:
        """How often a module was entered that had been left before."""
        return len(self.visits) - self.modules

    def __str__(self) -> str:
        return f"{self.modules} modules, {self.reentries} re-entries"


async def _trace_delivery(site: Site, destination: str) -> RouteTrace:
    subject = subjects.requested(TENANT, destination)
    trace = RouteTrace(subject)
    trace.start()
    # Core NATS, because an acknowledgement to the test would visit modules, too.
    await site.jetstream.connection.publish(subject, document(destination, delivery=new_delivery_id()))
    async with asyncio.timeout(30):
        await trace.acknowledged.wait()
    return trace


@pytest.fixture(autouse=True)
def logs() -> Generator[None]:
    """Log no attempt, whatever other tests configured: writing the log is no part of the route."""
    with product_logging("error"):
        yield


@contextlib.asynccontextmanager
async def _consumer(site: Site, receiver: Scripted) -> AsyncGenerator[None]:
    """A consumer that has delivered to the destination `other`, and knows nothing of `orders`."""
    for name in ("other", "orders"):
        await site.destination(name, receiver.url)
    async with site.consumer():
        await site.deliver("other")
        await until(site.is_settled, 30)
        yield


@pytest.mark.parametrize("status", [200, 500])
async def test_a_warm_delivery_visits_few_modules(site: Site, status: int, figure: Callable[[str], None]) -> None:
    """With everything in memory, neither a success nor a failure visits many modules, or returns to them often."""
    async with Scripted([status]) as receiver, Scripted() as other, _consumer(site, other):
        await site.destination("orders", receiver.url, retry_schedule_s=[3600])
        traces = [await _trace_delivery(site, "orders") for _ in range(ROUNDS)][1:]

    modules, reentries = min(trace.modules for trace in traces), min(trace.reentries for trace in traces)
    figure(f"{modules} modules, {reentries} re-entries")
    visits = min(traces, key=lambda trace: len(trace.visits)).visits
    assert modules <= MAX_MODULES[status], visits
    assert reentries <= MAX_REENTRIES[status], visits


@pytest.mark.parametrize("status", [200, 500])
async def test_a_cold_delivery_uses_the_same_modules(site: Site, status: int, figure: Callable[[str], None]) -> None:
    """A delivery that waits for its destination, secret and connection uses the same modules as a warm one."""
    async with Scripted([status]) as receiver, Scripted() as other, _consumer(site, other):
        await site.destination("orders", receiver.url, retry_schedule_s=[3600])
        refresh = msgspec.json.encode(RefreshSecrets())
        await site.jetstream.connection.ask(subjects.REFRESH, refresh)
        cold = await _trace_delivery(site, "orders")
        warm = min([await _trace_delivery(site, "orders") for _ in range(ROUNDS)], key=lambda trace: trace.modules)

    figure(str(cold))
    beside = {"consumers/worker/progress_marks.py"}  # a timer, whatever is delivered
    assert {module for module in warm.visits if module.startswith("consumers/")} <= set(cold.visits) | beside
