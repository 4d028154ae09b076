"""The worker: pulls messages, bounds how many are handled, settles each, and drains, for any handler.

A handler turns a message into publications that must be stored before the message may leave its stream. The worker
publishes them in order, and acknowledges or requeues the message only after JetStream stored the last one. A failed
publish is repeated; the handler never is.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

import msgspec
import structlog

from consumers.worker.disposition import Disposition, HandlerResult, quarantine_publication
from consumers.worker.fair_scheduler import MAX_WAITING, DestinationLane, FairScheduler
from consumers.worker.load_shedding import MAX_MOVING, LoadShedder
from consumers.worker.poison_guard import OUTAGES, IsolatedCrash, IsolationEnded, PoisonGuard, describe_outage
from consumers.worker.progress_marks import ProgressMarks
from consumers.worker.rate_limiter import RateLimiter
from consumers.worker.settling import InFlightMessage
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.client.term import TermExpired, clock
from messaging.message import Message
from messaging.publication import MessagePublisher, Publication
from messaging.pull_consumer import PullConsumer
from schemas.codes import Code
from schemas.streams import ORDERED

MAX_CRASHES: Final = 3
"""A message that crashes its handler this often is quarantined."""
MAX_CRASH_COUNTS: Final = 32_768
"""Messages whose crashes are counted here at a time. Beyond that, the oldest counts are forgotten."""
PREFETCH_PER_SLOT: Final = 4
"""Messages of a lane that a worker keeps for each slot of the lane, when other workers may want them."""
MAX_LOOKS: Final = 5
"""How often a worker looks at what is stored for a message, before it returns the message to its stream."""
MAX_OUTAGE_PAUSE_S: Final = 30.0
"""Longest pause before a message comes again whose handler could not reach JetStream."""
ISOLATION_PAUSE_S: Final = 2.0
"""Pause before a suspect comes again that could not be handled in isolation."""
MAX_SETTLED: Final = 8_192
"""Settled messages, at least, that are recognized when a restarted server delivers them again."""
MAX_SETTLING: Final = 128
"""Messages that are being settled without a slot. Beyond that, each keeps its slot until its results are stored: so no
tenant's results queue up by thousands before those of others."""
MAX_UNSETTLED: Final = 32_768
MAX_UNSETTLED_BYTES: Final = 128 * 1024 * 1024
MOVE_RETRY_S: Final = 1.0
DRAIN_RETRY_S: Final = 0.5
"""Longest pause between two tries during a drain: what is not stored at its end is sent again."""
STARTS_PER_TURN: Final = 32
"""Messages that start before the loop reads again: those of other tenants may have arrived."""
STARTS_BESIDE_OTHERS: Final = 4
"""As many while many tenants have work, or a surplus is moved: others may be behind it. And as many of those messages
that a task handles, which takes several times as long: a turn of the loop is what others wait for, often repeatedly.
"""
MANY_TENANTS: Final = 8
MARKS_PER_ACK_WAIT: Final = 4
"""Marks of an unsettled message in the time in which the server waits for its acknowledgement."""
HEARING_S: Final = 0.25
"""Interval at which a silent connection is noticed. After two of them nothing starts."""
MARKS_AT_A_TIME: Final = 256
"""Marks that are sent before the loop gets a turn."""

Handler = Callable[[Message], Awaitable[Disposition]]
TryStart = Callable[[Message, Callable[[HandlerResult], None]], Callable[[], None] | None]
"""Starts to handle a message without a coroutine, if that is possible: see `DeliveryHandler.try_start`."""


class SettleAgain(Protocol):
    """Returns what is left to store of a handler's publications: see `DeliveryHandler.settle_again`."""

    def __call__(
        self, message: Message, publications: tuple[Publication, ...], *, is_known: bool, is_first: bool
    ) -> Awaitable[Disposition]:
        """`is_known`: the server knows the id of one of them. `is_first`: the first call. Raises `JetStreamError`."""
        ...


_log = structlog.get_logger(__name__)


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one worker."""

    max_in_flight: int = 256
    """Messages that are handled at a time."""
    max_waiting: int = MAX_WAITING
    """Room for messages that wait, in units: see `FairScheduler`."""
    ack_wait_s: float = 30
    """The server's wait for an acknowledgement. Each mark of a message in progress restarts it."""
    drain_timeout_s: float = 25
    """How long a drain waits for messages in flight. Longer than the longest request."""
    settle_patience_s: float = 60
    """Time after which a message whose publications still fail is returned to its stream."""


class Worker:
    """Runs a handler over the messages of its sources until it is stopped."""

    def __init__(
        self,
        *,
        publisher: MessagePublisher,
        connection: NatsConnection,
        handler: Handler,
        try_start: TryStart = lambda _message, _on_result: None,
        settle_again: SettleAgain | None = None,
        lane_limit: Callable[[str], int],
        limits: WorkerLimits,
        rate_limiter: RateLimiter | None = None,
        shedder: LoadShedder | None = None,
        on_settled: Callable[[Message], None] | None = None,
        guard: PoisonGuard | None = None,
        is_announced: bool = True,
    ) -> None:
        """Create a worker without sources.

        Args:
            connection: The connection over which the messages come.
            try_start: Called before `handler`; returns None for messages that it leaves to `handler`.
            settle_again: Called when the server knows what was published, or something newer. Without, that is enough.
            lane_limit: Returns how many messages of a lane may be handled at a time; see `on_lane_changed`.
            shedder: Moves what exceeds a tenant's share of the waiting messages. Without, there is no such limit.
            on_settled: Called with each message after everything its handler returned is stored.
            guard: Isolates messages that were being handled when processes died.
            is_announced: Log when draining starts and ends.
        """
        self.publisher = publisher
        self.settle_patience_s = limits.settle_patience_s
        self._connection = connection
        self._is_cut_off = False
        self._marks = ProgressMarks(connection, ack_wait_s=limits.ack_wait_s)
        self._handler = handler
        self._try_start = try_start
        self._find_left = settle_again
        self._limits = limits
        self.ack_wait_s: Final = limits.ack_wait_s
        self._rate_limiter = rate_limiter
        self._shedder = shedder
        self._on_settled = on_settled
        self._guard = guard
        self._is_announced = is_announced
        self._sources: list[PullConsumer] = []
        self._scheduler = FairScheduler(limits.max_in_flight, lane_limit, room=limits.max_waiting)
        self._started: dict[str, tuple[InFlightMessage, Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled: set[str] = set()
        self._settled_before: set[str] = set()
        self._settling: dict[str, DestinationLane | None] = {}
        """Messages whose results are being stored, and the lanes of those that still have their slot."""
        self._unsettled: dict[str, Message] = {}
        self._unsettled_bytes = 0
        self._crash_counts: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._starts_left, self._tasks_left = STARTS_PER_TURN, STARTS_BESIDE_OTHERS
        self._is_turn_ending = self._is_draining = False
        self._blocked: set[str] = set()
        """Streams of which nothing is pulled until something is settled or moved."""
        self._drain_began, self._drained = asyncio.Event(), asyncio.Event()
        self.capacity: Final = 2 * limits.max_in_flight
        """What `free_capacity` returns while the worker pulls."""
        self.crashes = 0
        """Handlers that ended with an unforeseen error."""
        self.interruptions = 0
        """Handlers that could not reach NATS, or that lacked a resource of the system. Their messages come again."""
        self.quarantines = 0
        """Messages quarantined because of crashes, or because their consequence cannot be stored."""
        self.returns = 0
        """Messages returned to their stream because nothing that follows from them could be stored."""
        self.terminations = 0
        """Messages removed although nothing that follows from them could be stored, not even in the quarantine."""
        self.settlements = 0
        """Messages settled so far."""
        self._retries = 0
        self._expired = 0
        """Messages that were dropped because their term was over."""

    def add_source(self, source: PullConsumer) -> None:
        """Accept messages from `source`."""
        self._sources.append(source)

    @property
    def in_flight(self) -> int:
        """Messages that are being handled."""
        return self._scheduler.running

    @property
    def unsettled(self) -> int:
        """Messages that were accepted and not settled yet."""
        return len(self._unsettled)

    def holds(self, identity: str) -> bool:
        """Return whether a message, `<stream>.<sequence>`, was accepted and not settled yet."""
        return identity in self._unsettled

    def unsettled_of(self, tenant: str) -> int:
        """Return the number of a tenant's messages that were accepted and not settled yet."""
        return sum(message.lane.startswith(f"{tenant}.") for message in self._unsettled.values())

    @property
    def is_settling(self) -> bool:
        """True while a message is handled, or waits for another try to store its result."""
        return self._scheduler.running > 0 or self._retries > 0

    @property
    def is_pulling(self) -> bool:
        """True if all sources deliver."""
        return bool(self._sources) and all(source.is_working for source in self._sources)

    def free_capacity(self, stream: str) -> int:
        """Return how many more messages of `stream` to pull.

        What runs or waits takes up no capacity: others may be behind it. What is moved stops its own stream alone.
        """
        if (
            self._is_draining
            or len(self._unsettled) >= MAX_UNSETTLED
            or self._unsettled_bytes >= MAX_UNSETTLED_BYTES
            or (self._shedder is not None and self._shedder.moving_of[stream] >= MAX_MOVING)
        ):
            self._blocked.add(stream)
            return 0
        self._blocked.discard(stream)
        return self.capacity

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in flight and return the rest to its stream."""
        async with self._marks:
            watches = (
                asyncio.create_task(self._extend_terms(), name="extend-terms"),
                asyncio.create_task(self._watch_connection(), name="watch-connection"),
            )
            try:
                for source in self._sources:
                    await source.start()
                await stop.wait()
                await self._drain()
            finally:
                for watch in watches:
                    watch.cancel()
                await asyncio.gather(*watches, return_exceptions=True)

    def accept(self, message: Message) -> None:
        """Accept a message: it starts at once, or waits in its lane."""
        identity = message.identity
        if self._is_draining:
            message.nak()
            return
        held = self._unsettled.get(identity)
        if held is not None and (held.is_held() or not self._drop_expired(held)):
            return  # delivered again after a lost connection: the first copy settles it
        if identity in self._settled or identity in self._settled_before:
            # A server that lost the acknowledgement may have lost its count of deliveries, too.
            message.deliveries = max(message.deliveries, 2)
        self._unsettled[identity] = message
        self._unsettled_bytes += _pulled_bytes(message)
        if self._scheduler.enqueue(message.lane, message):
            self._start_ready()
        else:
            self._shed(message)

    def _shed(self, message: Message) -> None:
        """Move a message of a tenant that has filled its share. One that the overflow may not have waits here."""
        if not message.is_held():
            self.on_expired(message)
            return
        shedder, guard = self._shedder, self._guard
        is_accused = guard is not None and message.identity in guard.accused
        if shedder is None or is_accused or not shedder.can_move(message):
            self._keep(message)
            return

        def on_moved(error: JetStreamError | None) -> None:
            if error is None:
                message.ack()
                self._forget(message)
            elif self._is_draining:
                self._nak(message)
            elif isinstance(error, RejectedByServer):
                self._keep(message)
            else:  # the copy may be stored: the server drops another one
                self.retry_later(lambda: self._shed(message), MOVE_RETRY_S)

        shedder.move(message, on_moved)

    def _keep(self, message: Message) -> None:
        self._scheduler.enqueue(message.lane, message, is_bounded=False)
        self._start_ready()

    def on_lane_changed(self, key: str) -> None:
        """Apply a lane's limit again: it may have changed."""
        lane = self._scheduler.find(key)
        if lane is not None:
            self._scheduler.refresh_limit(lane)
            self._start_ready()

    def _start_ready(self) -> None:
        """Start what may start in this turn of the loop, in the scheduler's order."""
        scheduler, limiter = self._scheduler, self._rate_limiter
        if self._is_cut_off:
            return
        while scheduler.ready and self._starts_left and self._tasks_left and not self._is_draining:
            lane = scheduler.next()
            if lane is None:
                return
            if not self._is_turn_ending:
                self._is_turn_ending = True
                self._loop.call_soon(self._begin_turn)
            self._starts_left -= 1
            key, waiting = lane.key, len(lane.waiting)
            if limiter is not None and key in limiter.rates and not limiter.try_acquire(key, waiting):
                scheduler.suspend(lane)
            else:
                self._start(InFlightMessage(self, lane, scheduler.start(lane)))

    def _begin_turn(self) -> None:
        is_shared = self._scheduler.ready > MANY_TENANTS or (self._shedder is not None and self._shedder.moving)
        self._starts_left = STARTS_BESIDE_OTHERS if is_shared else STARTS_PER_TURN
        self._tasks_left = STARTS_BESIDE_OTHERS
        self._is_turn_ending = False
        if self._scheduler.ready:
            self._start_ready()

    def _start(self, work: InFlightMessage) -> None:
        guard = self._guard
        if guard is not None:
            if guard.isolated and guard.is_suspect(work.message):
                self._isolate(work, guard)
                return
            work.slot = guard.begin(work.message.identity)
        try:
            abandon = self._try_start(work.message, functools.partial(self._finish, work))
        except Exception as error:  # noqa: BLE001 - as in `_run`
            self._finish(work, error)
            return
        if abandon is not None:
            self._started[work.message.identity] = (work, abandon)
        else:
            self._tasks_left -= 1
            self._add_task(self._run(work, self._handler))

    def _isolate(self, work: InFlightMessage, guard: PoisonGuard) -> None:
        if guard.is_alone(work.message):
            self._scheduler.end(work.lane)  # its turn comes elsewhere, so it holds no slot here
            guard.isolate(work.message, functools.partial(self._settle, work))
        else:
            self._add_task(self._run(work, guard.handle))

    def _add_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: InFlightMessage, handler: Callable[[Message], Awaitable[HandlerResult]]) -> None:
        try:
            result = await handler(work.message)
        except asyncio.CancelledError:
            self._end_handling(work)
            self._nak(work.message)
            self._scheduler.end(work.lane)
            raise
        except Exception as error:  # noqa: BLE001 - every unforeseen error of a handler ends here
            result = error
        self._finish(work, result)

    def _finish(self, work: InFlightMessage, result: HandlerResult) -> None:
        """Settle what its handler has finished, and start what may start in its place."""
        self._started.pop(work.message.identity, None)
        if work.slot >= 0 and self._guard is not None:
            self._guard.end(work.slot)
        scheduler = self._scheduler
        try:
            if isinstance(result, Exception):
                self._settle(work, result)
            else:
                work.settle(result)
        finally:
            is_settling = work.message.identity in self._unsettled
            keeps_slot = is_settling and len(self._settling) >= MAX_SETTLING
            if is_settling:
                self._settling[work.message.identity] = work.lane if keeps_slot else None
            if not keeps_slot:
                scheduler.end(work.lane)
            if scheduler.ready:
                self._start_ready()

    def _end_handling(self, work: InFlightMessage) -> None:
        if self._guard is not None:
            self._guard.end(work.slot)

    def _settle(self, work: InFlightMessage, result: HandlerResult) -> None:
        if isinstance(result, IsolationEnded):
            self._nak(work.message, delay_s=ISOLATION_PAUSE_S)
        elif isinstance(result, Exception):
            self._on_crash(work, result)
        else:
            work.settle(result)

    def _on_crash(self, work: InFlightMessage, error: Exception) -> None:
        message = work.message
        if isinstance(error, TermExpired):  # another process may handle the message
            self.on_expired(message)
            return
        if isinstance(error, OUTAGES):  # an outage is no fault of the message
            self.interruptions += 1
            delay_s = min(2.0 ** min(message.deliveries, 10), MAX_OUTAGE_PAUSE_S)
            _log.warning(
                "handler.unavailable", subject=message.subject, error=describe_outage(error), next_try_s=delay_s
            )
            self._nak(message, delay_s=delay_s)
            return
        self.crashes += 1
        crashes = self._count_crash(message.identity)
        # The type alone: the text of a foreign exception may quote anything.
        name = error.name if isinstance(error, IsolatedCrash) else type(error).__name__
        _log.error("handler.crashed", subject=message.subject, error=name, crashes=crashes)
        if crashes < MAX_CRASHES:
            self._nak(message, delay_s=float(crashes))
            return
        del self._crash_counts[message.identity]
        self.quarantines += 1
        reason = f"failed {crashes} times, last with {name}"
        work.settle((quarantine_publication(message, Code.INTERNAL, reason),))

    def _count_crash(self, identity: str) -> int:
        """Count the crashes alone: an outage or a killed consumer adds deliveries, and is no fault of the message."""
        counts = self._crash_counts
        counts[identity] = crashes = counts.pop(identity, 0) + 1
        if len(counts) > MAX_CRASH_COUNTS:
            del counts[next(iter(counts))]
        return crashes

    def _nak(self, message: Message, *, delay_s: float = 0) -> None:
        message.nak(delay_s)
        self._forget(message)

    def settle_again(self, work: InFlightMessage) -> bool:
        """Find what is left to store of `work.first`, and settle it later. Returns False to accept what is stored."""
        if self._find_left is None:
            return False
        work.looks += 1
        guard = self._guard
        is_suspect = guard is not None and guard.isolated and guard.is_suspect(work.message)
        if is_suspect or work.looks > MAX_LOOKS:
            self._nak(work.message, delay_s=ISOLATION_PAUSE_S)  # its redelivery looks, for a suspect in isolation
        else:
            self._add_task(self._settle_again(work, self._find_left))
        return True

    async def _settle_again(self, work: InFlightMessage, find_left: SettleAgain) -> None:
        try:
            is_known, is_first = work.is_known, work.looks == 1
            left = await find_left(work.message, work.first or (), is_known=is_known, is_first=is_first)
        except asyncio.CancelledError:
            self._nak(work.message)
            raise
        except Exception as error:  # noqa: BLE001 - as in `_run`
            self._on_crash(work, error)
        else:
            work.settle(left)

    def on_settled(self, message: Message, *, is_acknowledged: bool) -> None:
        """Forget a message whose publications are stored. The server rarely redelivers an acknowledged message."""
        if is_acknowledged:
            self._settled.add(message.identity)
            if len(self._settled) >= MAX_SETTLED:
                self._settled_before, self._settled = self._settled, set()
        self.settlements += 1
        self._forget(message)
        if self._on_settled is not None:
            self._on_settled(message)

    def on_unsettled(self, message: Message, delay_s: float) -> None:
        """Return a message to its stream whose publications are not stored."""
        self.returns += 1
        self._nak(message, delay_s=delay_s)

    def on_quarantined(self) -> None:
        """Count a message that is in the quarantine."""
        self.quarantines += 1

    def on_terminated(self) -> None:
        """Count a message that not even the quarantine can keep."""
        self.terminations += 1

    def _forget(self, message: Message) -> None:
        if self._unsettled.pop(message.identity, None) is not None:
            self._unsettled_bytes -= _pulled_bytes(message)
            lane = self._settling.pop(message.identity, None)
            if lane is not None:
                self._scheduler.end(lane)
                self._start_ready()
        if self._is_draining:
            if not self._unsettled:
                self._drained.set()
        elif self._blocked:
            for source in self._sources:
                source.request_more()

    def retry_later(self, retry: Callable[[], None], delay_s: float) -> None:
        """Call `retry` after `delay_s`, or sooner during a drain, unless that has ended by then."""
        self._add_task(self._retry(retry, delay_s))

    async def _retry(self, retry: Callable[[], None], delay_s: float) -> None:
        self._retries += 1
        try:
            if self._is_draining:
                await asyncio.sleep(min(delay_s, DRAIN_RETRY_S))
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drain_began.wait(), delay_s)
        finally:
            self._retries -= 1
        retry()

    async def _watch_connection(self) -> None:
        """Start nothing while the server is silent: a result that cannot be stored leads to a second request.

        A connection that is merely idle answers to a mark.
        """
        heard, is_asked = -1, False
        while True:
            await asyncio.sleep(HEARING_S)
            before, heard = heard, self._connection.reads
            if heard != before or not self._unsettled:
                is_asked = False
                if self._is_cut_off:
                    self._is_cut_off = False
                    self._start_ready()
                continue
            if is_asked and not self._is_cut_off:
                self._is_cut_off = True
                _log.warning("nats.silent", held=len(self._unsettled), in_flight=self._scheduler.running)
            is_asked = True
            self._marks.send([next(reversed(self._unsettled.values()))])

    async def _extend_terms(self) -> None:
        seen: set[str] = set()
        reported = 0
        while True:
            await asyncio.sleep(self._limits.ack_wait_s / MARKS_PER_ACK_WAIT)
            for lane in self._scheduler:
                self._drop_expired_of(lane)
            if self._expired > reported:
                _log.warning("terms.expired", messages=self._expired - reported)
                reported = self._expired
            self._marks.begin_round()
            unsettled = list(self._unsettled.values())
            for first in range(0, len(unsettled), MARKS_AT_A_TIME):
                self._marks.send(unsettled[first : first + MARKS_AT_A_TIME])
                await asyncio.sleep(0)
            # What is handed back on a connection that stalls reaches the server when another process has the message.
            if await self._marks.are_confirmed():
                self._release_surplus(seen)
            seen = set(self._unsettled)

    def _drop_expired(self, message: Message) -> bool:
        """Drop what waits in the lane of `message` and may be another process's. Returns False if it has begun."""
        lane = self._scheduler.find(message.lane)
        if lane is not None:
            self._drop_expired_of(lane)
        return message.identity not in self._unsettled

    def _drop_expired_of(self, lane: DestinationLane) -> None:
        now = clock()
        expired = [message for message in lane.waiting if now >= message.term.until or now >= message.lease.until]
        if expired:
            self._scheduler.withdraw(lane, expired)
            for message in expired:
                self.on_expired(message)

    def on_expired(self, message: Message) -> None:
        """Forget a message that the server delivers again. Nothing is handed back: another process may have it."""
        self._expired += 1
        self._forget(message)

    def _release_surplus(self, seen: set[str]) -> None:
        """Return a part of each long backlog to its stream: a worker that started later may have room for it.

        Each message is returned once at most, so that the count of its deliveries keeps its meaning.
        """
        for lane in self._scheduler:
            surplus = (len(lane.waiting) - PREFETCH_PER_SLOT * lane.limit) // 2
            if surplus <= 0:
                continue
            released = [m for m in lane.waiting if m.deliveries == 1 and m.identity in seen][-surplus:]
            self._scheduler.withdraw(lane, released)
            for message in released:
                self._nak(message)

    async def _drain(self) -> None:
        self._is_draining = True
        self._drain_began.set()
        self._announce("drain.started", in_flight=self._scheduler.running, held=len(self._unsettled))
        for source in self._sources:
            await source.stop()
        self._marks.send(message for lane in self._scheduler for message in lane.waiting)
        give_back = self._nak if await self._marks.are_confirmed() else self._forget
        for lane in self._scheduler:
            waiting = list(lane.waiting)
            self._scheduler.withdraw(lane, waiting)
            for message in waiting:
                give_back(message)
        if self._guard is not None:
            self._guard.return_waiting()
        if self._unsettled:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), self._limits.drain_timeout_s)
        started = list(self._started.values())
        for work, abandon in started:
            abandon()
            self._end_handling(work)
            self._nak(work.message)
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        self._announce("drain.finished", handed_back=len(started) + len(unfinished))

    def _announce(self, event: str, **counts: int) -> None:
        if self._is_announced:
            _log.info(event, **counts)


def _pulled_bytes(message: Message) -> int:
    """Return the bytes that count as pulled. Heads of ordered queues do not: pulling less would not bound them."""
    return 0 if message.stream == ORDERED.name else len(message.data)
