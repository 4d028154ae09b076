"""The runtime: pull, bound, settle, drain, for any handler.

A handler turns a message into what must be stored before the message may go. The runtime publishes that, in order,
and acknowledges, or hands back, only after JetStream has the last of it. A failed publish is tried again; the handler
never is.
"""

import asyncio
import collections
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from consumers.worker.disposition import Disposition, HandlerResult, Requeue, quarantine_publication
from consumers.worker.fair_scheduler import DestinationLane, FairScheduler
from messaging.client.errors import JetStreamError
from messaging.publisher import MessagePublisher, Publication, PublishAck
from messaging.pull_consumer import Message, PullConsumer
from schemas.codes import Code
from schemas.subjects import ORDERED

MAX_CRASHES: Final = 3
"""A message whose handler has failed this often, in a way nobody foresaw, is quarantined."""
MAX_CRASHED: Final = 1000
"""So many messages at most are remembered as having crashed their handler."""
PREFETCH_PER_SLOT: Final = 4
"""So many times what may run of a lane is kept of it, when some is shared with other workers."""
MAX_SETTLED: Final = 8_192
"""So many messages, at least, are known again when the server hands them out once more after a crash of its own."""
MAX_HELD: Final = 32_768
MAX_HELD_BYTES: Final = 128 * 1024 * 1024

Handler = Callable[[Message], Awaitable[Disposition]]
Begin = Callable[[Message, Callable[[HandlerResult], None]], Callable[[], None] | None]
"""Handles a message without a coroutine if it can, and returns how to give up: see `DeliveryHandler.begin`."""

_log = structlog.get_logger(__name__)


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one worker takes on."""

    max_in_flight: int = 256
    """Handlers that run at a time."""
    ack_wait_s: float = 30
    """The server's patience, from `apply`; what is held is marked as in progress three times as often."""
    drain_timeout_s: float = 25
    """How long a shutdown waits for what is in flight. Longer than the longest request."""


class Worker:
    """Runs `handler` over the messages that its pulls bring, until told to stop.

    `lane_limit` says how many of a lane may run at a time, and `on_lane_changed` has it asked again. Tenants with
    something to start take turns, and so do a tenant's lanes (`consumers.worker.fair_scheduler`): a long lane costs the others nothing,
    and neither do many. `try_acquire` is asked, with a lane and how many wait in it, before each start; a lane that may
    not stands aside until `on_lane_changed`.
    `on_settled` is told of each message when all that its handler asked for is stored. `is_announced`: whether its end
    is worth a line in the log.
    """

    def __init__(
        self,
        *,
        publisher: MessagePublisher,
        handler: Handler,
        begin: Begin = lambda _message, _on_end: None,
        lane_limit: Callable[[str], int],
        limits: WorkerLimits,
        may_start: Callable[[str, int], bool] = lambda _lane, _waiting: True,
        on_settled: Callable[[Message], None] | None = None,
        is_announced: bool = True,
    ) -> None:
        self.publisher = publisher
        self._handler = handler
        self._limits = limits
        self._may_start = may_start
        self._on_settled = on_settled
        self._pulls: list[PullConsumer] = []
        self._turns = FairScheduler(limits.max_in_flight, lane_limit)
        self._begin = begin
        self._begun: dict[str, tuple[InFlightMessage, Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_announced = is_announced
        self._settled: set[str] = set()
        self._settled_before: set[str] = set()
        self._held: dict[str, Message] = {}
        self._held_bytes = 0
        self._crashes: collections.Counter[str] = collections.Counter()
        self._draining = False
        self._empty = asyncio.Event()
        self.capacity: Final = 2 * limits.max_in_flight
        """The most that `room` ever is: as much again in hand as can run."""
        self.crashes = 0
        """Handlers that failed in a way nobody foresaw."""

    def add_source(self, pull: PullConsumer) -> None:
        """Take messages from `pull` too."""
        self._pulls.append(pull)

    @property
    def in_flight(self) -> int:
        """Handlers that run right now."""
        return self._turns.running

    @property
    def unsettled(self) -> int:
        """Messages taken and not yet settled."""
        return len(self._held)

    @property
    def is_pulling(self) -> bool:
        """Whether all pulls bring what there is."""
        return bool(self._pulls) and all(pull.is_working for pull in self._pulls)

    def free_capacity(self) -> int:
        """How many more to ask for. What waits behind its lane's limit, or its tenant's share, is no work at hand."""
        if self._draining or len(self._held) >= MAX_HELD or self._held_bytes >= MAX_HELD_BYTES:
            return 0
        return self.capacity - self._turns.running - self._turns.runnable

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in flight, hand back the rest, and return."""
        marker = asyncio.create_task(self._extend_ack_deadlines(), name="tend")
        try:
            for pull in self._pulls:
                await pull.start()
            await stop.wait()
            await self._drain()
        finally:
            marker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await marker

    def accept(self, message: Message) -> None:
        """Take a message in: it runs at once, or waits in its lane."""
        identity = message.identity
        if self._draining:
            message.nak()
            return
        if identity in self._held:
            return  # handed out again while we were cut off from the server: the one at hand will settle it
        if identity in self._settled or identity in self._settled_before:
            # Our acknowledgement got lost with a server that may have forgotten, too, that it had handed this out.
            message.deliveries = max(message.deliveries, 2)
        self._held[identity] = message
        self._held_bytes += len(message.data)
        self._turns.enqueue(message.lane, message)
        self._dispatch()

    def on_lane_changed(self, key: str) -> None:
        """The limit of a lane may be another one now."""
        lane = self._turns.find(key)
        if lane is not None:
            self._turns.refresh_limit(lane)
            self._dispatch()

    def _dispatch(self) -> None:
        while not self._draining and (lane := self._turns.next()) is not None:
            if not self._may_start(lane.key, len(lane.waiting)):
                self._turns.suspend(lane)
                continue
            work = InFlightMessage(self, lane, self._turns.start(lane))
            if not self._start_inline(work):
                task = asyncio.create_task(self._run(work))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _start_inline(self, work: "InFlightMessage") -> bool:
        """Have the message handled without a task, if the handler can."""
        try:
            give_up = self._begin(work.message, functools.partial(self._finish, work))
        except Exception as error:  # noqa: BLE001 - the edge, as in `_run`
            self._finish(work, error)
            return True
        if give_up is None:
            return False
        self._begun[work.message.identity] = (work, give_up)
        return True

    async def _run(self, work: "InFlightMessage") -> None:
        try:
            handled: HandlerResult = await self._handler(work.message)
        except asyncio.CancelledError:
            self._nak(work.message)
            self._turns.end(work.lane)
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever a handler did not foresee ends here
            handled = error
        self._finish(work, handled)

    def _finish(self, work: "InFlightMessage", handled: HandlerResult) -> None:
        """A handler has ended: store what it wants stored, and have the next one begin."""
        self._begun.pop(work.message.identity, None)
        turns = self._turns
        try:
            if isinstance(handled, Exception):
                self._on_crash(work, handled)
            else:
                work.settle(handled)
        finally:
            turns.end(work.lane)
            self._dispatch()
        room = self.capacity - turns.running - turns.runnable
        for pull in self._pulls:
            if room - pull.outstanding >= pull.worth_asking:
                pull.request_more()

    def _on_crash(self, work: "InFlightMessage", error: Exception) -> None:
        self.crashes += 1
        message = work.message
        crashes = self._count_crash(message)
        # Its type alone: the text of a foreign exception may hold anything.
        _log.error("handler.crashed", subject=message.subject, error=type(error).__name__, deliveries=crashes)
        if crashes < MAX_CRASHES:
            self._nak(message, delay_s=float(crashes))
            return
        kept = quarantine_publication(
            message, Code.INTERNAL, f"failed {crashes} times, last with {type(error).__name__}"
        )
        work.settle((kept,))

    def _count_crash(self, message: Message) -> int:
        if message.stream != ORDERED.name:
            return message.deliveries
        # The head of a line is handed out again for every retry, so what this consumer saw of it is what counts.
        if len(self._crashes) > MAX_CRASHED:
            self._crashes.clear()
        self._crashes[message.identity] += 1
        return self._crashes[message.identity]

    def _nak(self, message: Message, *, delay_s: float = 0) -> None:
        message.nak(delay_s)
        self._forget(message)

    def on_settled(self, message: Message, *, is_done: bool) -> None:
        """All that it leaves behind is stored. Should it come again when it `is_done`, then because a server forgot."""
        if is_done:
            self._settled.add(message.identity)
            if len(self._settled) >= MAX_SETTLED:
                self._settled_before, self._settled = self._settled, set()
        self._forget(message)
        if self._on_settled is not None:
            self._on_settled(message)

    def _forget(self, message: Message) -> None:
        if self._held.pop(message.identity, None) is not None:
            self._held_bytes -= len(message.data)
        if self._draining and not self._held:
            self._empty.set()

    def retry_later(self, again: Callable[[], None], delay_s: float) -> None:
        """Call `again` after `delay_s`, in a task of its own."""

        async def later() -> None:
            await asyncio.sleep(delay_s)
            again()

        task = asyncio.create_task(later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _extend_ack_deadlines(self) -> None:
        seen: set[str] = set()
        while True:
            await asyncio.sleep(self._limits.ack_wait_s / 3)
            self._release_surplus(seen)
            # What came since the last round has time until the next one.
            for identity in seen.intersection(self._held):
                if (message := self._held.get(identity)) is not None:
                    message.in_progress()
            seen = set(self._held)

    def _release_surplus(self, seen: set[str]) -> None:
        """Hand back some of what has waited in a long lane: another worker may have room in the same lane.

        A worker that was there first has taken all that was due. Each message is handed back once at most, so with
        nobody else to take it that costs one more redelivery, and the count of redeliveries keeps its meaning.
        """
        for lane in self._turns:
            spare = (len(lane.waiting) - PREFETCH_PER_SLOT * lane.limit) // 2
            if spare <= 0:
                continue
            given = [m for m in lane.waiting if m.deliveries == 1 and m.identity in seen][-spare:]
            gone = {message.identity for message in given}
            lane.waiting = collections.deque(m for m in lane.waiting if m.identity not in gone)
            self._turns.refresh(lane)
            for message in given:
                self._nak(message)

    def _announce(self, event: str, **counts: int) -> None:
        if self._is_announced:
            _log.info(event, **counts)

    async def _drain(self) -> None:
        self._draining = True
        self._announce("drain.started", in_flight=self._turns.running, held=len(self._held))
        for pull in self._pulls:
            await pull.stop()
        for lane in self._turns:
            while lane.waiting:
                self._nak(lane.waiting.popleft())
            self._turns.refresh(lane)
        if self._held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._limits.drain_timeout_s)
        begun = list(self._begun.values())
        for work, give_up in begun:
            give_up()
            self._nak(work.message)
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        self._announce("drain.finished", handed_back=len(begun) + len(unfinished))


class InFlightMessage:
    """A message that runs, and then is settled: what it leaves behind is stored one by one, each step by the callback
    of the one before, and then it is acknowledged, or handed back."""

    __slots__ = ("_delay_s", "_is_again", "_publications", "_runtime", "_stored", "lane", "message")

    def __init__(self, runtime: Worker, lane: DestinationLane, message: Message) -> None:
        self._runtime = runtime
        self.lane = lane
        self.message = message
        self._publications: tuple[Publication, ...] = ()
        self._is_again = False
        self._stored = 0
        self._delay_s = 0.1

    def settle(self, settlement: Disposition) -> None:
        """Do as the handler says."""
        if isinstance(settlement, Requeue):
            self._is_again = True
            settlement = settlement.publications
        self._publications = settlement
        self._store_next()

    def _store_next(self) -> None:
        if self._stored < len(self._publications):
            self._runtime.publisher.send(self._publications[self._stored], self._on_stored)
            return
        if self._is_again:
            self.message.nak()
        else:
            self.message.ack()
        self._runtime.on_settled(self.message, is_done=not self._is_again)

    def _on_stored(self, result: PublishAck | JetStreamError) -> None:
        if isinstance(result, PublishAck):
            self._stored += 1
            self._store_next()
            return
        publication = self._publications[self._stored]
        _log.warning("publish.failed", subject=publication.subject, error=str(result), next_try_s=self._delay_s)
        self._runtime.retry_later(self._store_next, self._delay_s)
        self._delay_s = min(self._delay_s * 2, 5.0)
