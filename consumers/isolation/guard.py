"""The poison guard: suspects are handled in child processes, together at first, and alone when one of them is poison.

A death of a consumer says little about one message. So suspects share one process, where those that wait for a slow
receiver delay no other. When that process dies with several messages in hand, each of them is handled alone from then
on, and the next death shows which one is to blame. A death that came from outside, by a signal such as SIGKILL, is not
a message's fault, and is not counted.
"""

import asyncio
import collections
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from consumers.isolation.journal import HandlingJournal
from consumers.isolation.process import IsolatedProcess, ProcessEnded
from consumers.isolation.suspects import MAX_ISOLATED_DEATHS, SuspectRegistry, tenant_of
from consumers.worker.disposition import HandlerResult, Requeue, quarantine_publication
from consumers.worker.poison_guard import IsolatedCrash, IsolationEnded, OnIsolated
from messaging.client.errors import JetStreamError
from messaging.message import Message
from schemas.codes import Code
from telemetry.metrics import definitions
from telemetry.metrics.registry import MetricSample

MAX_WAITING: Final = 256
"""Suspects of one process that wait for their turn to be handled alone. Others are returned to their stream."""
MAX_ALONE: Final = 3
"""Processes that handle one suspect each: of different tenants, so that no tenant waits for another's receiver."""
SHARED_BYTES: Final = 32 * 1024 * 1024
"""Bodies in hand in the shared process, whose memory is limited. A tenant may fill half of what is free."""
RESULTS: Final = ("handled", "died", "quarantined", "returned")

_log = structlog.get_logger(__name__)


class IsolatingGuard:
    """A poison guard that isolates suspects in processes.

    Suspects that are handled alone are delayed by their own tenant's only, while no more than `MAX_ALONE` tenants have
    some. Beyond that, tenants take turns.
    """

    def __init__(
        self, journal: HandlingJournal, registry: SuspectRegistry, command: Sequence[str], environ: dict[str, str]
    ) -> None:
        """`command` starts a process: see `IsolatedProcess`."""
        self.begin: Callable[[str], int] = journal.begin
        self.end: Callable[[int], None] = journal.end
        self.isolated: AbstractSet[str] = registry.isolated
        self.accused: AbstractSet[str] = registry.accused
        self.is_suspect: Callable[[Message], bool] = registry.is_suspect
        self._registry = registry
        self._shared = IsolatedProcess(command, environ)
        self._shared_bytes: collections.Counter[str] = collections.Counter()
        """Of each tenant."""
        self._free = [IsolatedProcess(command, environ) for _ in range(MAX_ALONE)]
        self._processes = (self._shared, *self._free)
        self._waiting: dict[str, collections.deque[tuple[Message, OnIsolated]]] = {}
        self._count = 0
        self._tasks: dict[str, asyncio.Task[HandlerResult]] = {}
        """By tenant."""
        self.results: collections.Counter[str] = collections.Counter()
        """Suspects by what became of them, one of `RESULTS`."""

    def is_alone(self, message: Message) -> bool:
        """Return whether a suspect is to be handled alone, or must be because the shared process has no room."""
        bodies = self._shared_bytes
        size = bodies[tenant_of(message.lane)] + len(message.data)
        return self._registry.is_alone(message) or size > SHARED_BYTES - bodies.total()

    async def handle(self, message: Message) -> HandlerResult:
        """Handle a suspect beside others, and return its result, or `IsolationEnded`."""
        tenant, size = tenant_of(message.lane), len(message.data)
        self._shared_bytes[tenant] += size
        try:
            return await self._handle_in(self._shared, message)
        finally:
            self._shared_bytes[tenant] -= size
            if not self._shared_bytes[tenant]:
                del self._shared_bytes[tenant]

    def isolate(self, message: Message, on_result: OnIsolated) -> None:
        """Handle a suspect alone when its turn comes, and call `on_result` once: at once when too many wait."""
        tenant = tenant_of(message.lane)
        if self._count >= MAX_WAITING and not self._return_newest(beyond=len(self._waiting.get(tenant, ()))):
            on_result(IsolationEnded())
            return
        self._count += 1
        self._waiting.setdefault(tenant, collections.deque()).append((message, on_result))
        self._start_next()

    def _return_newest(self, *, beyond: int) -> bool:
        """Return the newest of the longest line to its stream, if more than `beyond` and itself wait in that line."""
        longest = max(self._waiting.values(), key=len)
        if len(longest) <= beyond + 1:
            return False
        self._count -= 1
        longest.pop()[1](IsolationEnded())
        return True

    def return_waiting(self) -> None:
        """Return everything that waits to its stream."""
        waiting, self._waiting, self._count = self._waiting, {}, 0
        for line in waiting.values():
            for _, on_result in line:
                on_result(IsolationEnded())

    def samples(self) -> Iterator[MetricSample]:
        """Yield the current metrics."""
        yield definitions.SUSPECTS, (), len(self.isolated)
        for result in RESULTS:
            yield definitions.ISOLATED, (("result", result),), self.results[result]

    async def aclose(self) -> None:
        """Return everything, and end the processes."""
        self.return_waiting()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(process.aclose() for process in self._processes))

    def _start_next(self) -> None:
        """Start what may be handled alone now: the next message of each tenant, in the order of their turns."""
        while self._free and (tenant := next((one for one in self._waiting if one not in self._tasks), None)):
            waiting = self._waiting.pop(tenant)
            message, on_result = waiting.popleft()
            if waiting:
                self._waiting[tenant] = waiting  # behind the other tenants
            self._count -= 1
            process = self._free.pop()
            self._tasks[tenant] = task = asyncio.create_task(self._handle_in(process, message))
            task.add_done_callback(functools.partial(self._on_done, tenant, process, on_result))

    def _on_done(
        self, tenant: str, process: IsolatedProcess, on_result: OnIsolated, task: asyncio.Task[HandlerResult]
    ) -> None:
        del self._tasks[tenant]
        self._free.append(process)
        on_result(IsolationEnded() if task.cancelled() else task.result())
        self._start_next()

    async def _handle_in(self, process: IsolatedProcess, message: Message) -> HandlerResult:
        try:
            result = await process.handle(message)
        except ProcessEnded as ended:
            if not ended.is_own:
                self.results["returned"] += 1
                return IsolationEnded()
            return await self._on_death(message, ended)
        if process is self._shared and isinstance(result, IsolatedCrash) and result.name == MemoryError.__name__:
            return await self._set_alone(message)  # another message may have used the memory
        self.results["handled"] += 1
        if isinstance(result, (tuple, Requeue)):
            with contextlib.suppress(JetStreamError):  # the entry expires
                await self._registry.clear(message)
        return result

    async def _on_death(self, message: Message, ended: ProcessEnded) -> HandlerResult:
        self.results["died"] += 1
        if ended.in_hand > 1:
            return await self._set_alone(message)
        try:
            deaths = await self._registry.count_isolated_death(message)
        except JetStreamError as error:
            _log.warning("suspects.unavailable", error=str(error))
            return IsolationEnded()
        if deaths < MAX_ISOLATED_DEATHS:
            return IsolationEnded()
        self.results["quarantined"] += 1
        reason = f"ended the process that handled it {deaths} times, last with the code {ended.code}"
        return (quarantine_publication(message, Code.INTERNAL, reason),)

    async def _set_alone(self, message: Message) -> HandlerResult:
        try:
            await self._registry.set_alone(message)
        except JetStreamError as error:
            _log.warning("suspects.unavailable", error=str(error))
        return IsolationEnded()
