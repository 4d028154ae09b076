"""The ordered queues of a worker: each destination with `ordering: fifo` is served by one worker at a time.

Publishers store most requests in the queue themselves, and wake one of the workers if the queue may have none. A
message in the work stream is a wake-up as well. The worker that has the queue transfers everything that waits in the
streams, this message included, in order (`consumers.queues.ordered_transfer`). Another worker that gets the message
returns it for a moment, in case the queue has no worker by then. Once a second, each worker looks for queues that have
none.
"""

import asyncio
import contextlib
from collections import Counter
from typing import Final

import msgspec
import structlog

from consumers.model.request import RetryState
from consumers.queues.ordered_queue import LEASE_S, OrderedQueue, OrderedQueueDependencies, handed_over
from consumers.queues.ordered_transfer import MAX_NAK_DELAY_S, NAK_DELAY_S, hand_over
from consumers.worker.disposition import quarantine_publication
from messaging import management
from messaging.client.connection import IncomingMessage
from messaging.client.errors import JetStreamError, is_refused_for_good
from messaging.lease import is_overdue
from messaging.message import Message
from messaging.periodic import run_every
from messaging.publication import Publication, PublishAck
from messaging.tenant_turns import FairTurns
from schemas import streams, subjects
from schemas.codes import Code
from schemas.control_messages import HandedOver
from schemas.headers import HEADER_MSG_ID, HEADER_ORIGINAL, HEADER_SINCE

ADOPT_INTERVAL_S: Final = 1.0
LOOKED_UP_PER_S: Final = 1000
"""Non-empty queues that are looked up a second: with more, the next look is later."""
FULL_NAK_DELAY_S: Final = 30.0
"""Pause of a message whose tenant has all the queues here that it may have at a time."""
OTHER_WORKER_S: Final = 0.5
"""Time for which a worker does not try again to lease a queue that another worker has."""

MAX_STARTS: Final = 4
"""Queues that start at a time. Each start takes several requests to the server, and creates a consumer there: more at
a time slow down the queues that run.
"""
MAX_STARTS_PER_TENANT: Final = 2

_GROUP: Final = "consumers"
_log = structlog.get_logger(__name__)


class OrderedQueues:
    """The queues that this worker serves, and the messages that arrive for any queue."""

    def __init__(self, shared: OrderedQueueDependencies) -> None:
        self._shared = shared
        self._queues: dict[str, OrderedQueue] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._count: Counter[str] = Counter()
        """Queues of each tenant."""
        self._adopt_at = 0.0
        self._starts = FairTurns(MAX_STARTS, per_tenant=MAX_STARTS_PER_TENANT)
        self._leased_by_others: dict[str, float] = {}
        """Loop time until which a queue is left to the worker that has it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Adopt queues without a worker until `stop` is set; then release all."""
        await self._shared.connection.subscribe(subjects.line("*", "*", "wake"), self._on_wake, group=_GROUP)
        try:
            failure = "ordered_queues.lookup_failed"
            await run_every(ADOPT_INTERVAL_S, self._adopt, stop, failure_event=failure, jitter=0.2)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _on_wake(self, incoming: IncomingMessage) -> None:
        *_, tenant, destination, _ = incoming.subject.split(".")
        self.wake(tenant, destination, handed=handed_over(incoming.data))

    def accept(self, message: Message) -> None:
        """Accept a message for an ordered destination, from the work stream or as a due retry."""
        tenant, destination = subjects.tenant_and_destination(message.subject)
        if message.stream == streams.RETRIES.name:
            self._enqueue_due_retry(message, tenant, destination)
            return
        if not self.wake(tenant, destination, message):
            growing_s = min(NAK_DELAY_S * message.deliveries, MAX_NAK_DELAY_S)
            delay_s = FULL_NAK_DELAY_S if self._is_full(tenant) else growing_s
            self._notify_holder(tenant, destination, hand_over([message], delay_s, self._shared.clock.now()))

    def _notify_holder(self, tenant: str, destination: str, handed: HandedOver) -> None:
        with contextlib.suppress(JetStreamError):  # without it, the messages come again
            self._shared.connection.post(subjects.line(tenant, destination, "more"), msgspec.json.encode(handed))

    def wake(
        self, tenant: str, destination: str, message: Message | None = None, *, handed: HandedOver | None = None
    ) -> bool:
        """Notify the destination's queue, or try to lease it. Returns False if it is left to other workers.

        Otherwise the queue transfers `message`, of the work stream, or returns it. It may transfer what is `handed`
        over.
        """
        key = f"{tenant}.{destination}"
        queue = self._queues.get(key)
        if queue is None:
            is_left = self._leased_by_others.get(key, 0.0) >= asyncio.get_running_loop().time()
            if is_left or self._is_full(tenant):
                return False
            self._count[tenant] += 1
            self._queues[key] = queue = OrderedQueue(self._shared, tenant, destination)
            self._tasks[key] = asyncio.create_task(self._run(key, tenant, queue), name=f"ordered queue {key}")
        queue.notify(message, handed)
        return True

    def _is_full(self, tenant: str) -> bool:
        return self._count[tenant] >= self._shared.max_per_tenant

    async def _run(self, key: str, tenant: str, queue: OrderedQueue) -> None:
        was_leased = False
        try:
            async with self._starts.turn(tenant) as release:
                was_leased = await queue.run(release)
        except JetStreamError as error:
            _log.warning("ordered_queue.failed", queue=key, error=str(error))
        finally:
            del self._queues[key], self._tasks[key]
            self._count[tenant] -= 1
            if not self._count[tenant]:
                del self._count[tenant]
            if not was_leased:
                self._leased_by_others[key] = asyncio.get_running_loop().time() + OTHER_WORKER_S
            handed = queue.return_messages(NAK_DELAY_S)
            if handed is not None:
                self._notify_holder(tenant, key.partition(".")[2], handed)

    async def _adopt(self) -> None:
        if asyncio.get_running_loop().time() < self._adopt_at:
            return
        pattern = subjects.ordered("*", "*")
        info = await management.stream_info(self._shared.connection, streams.ORDERED.name, subjects=pattern)
        waiting = {subjects.lane_of(subject) for subject in info.state.subjects} - self._queues.keys()
        now = asyncio.get_running_loop().time()
        self._adopt_at = now + len(info.state.subjects) / LOOKED_UP_PER_S - ADOPT_INTERVAL_S
        self._leased_by_others = {key: until for key, until in self._leased_by_others.items() if until > now}
        if not waiting:
            return
        leases = self._shared.leases
        entries = await leases.get_all(sorted(waiting))
        leased = {entry.key for entry in entries if entry.value and not is_overdue(leases, entry, LEASE_S)}
        for key in waiting - leased:
            tenant, destination = key.split(".")
            self.wake(tenant, destination)

    def _enqueue_due_retry(self, message: Message, tenant: str, destination: str) -> None:
        """Append a due retry to the queue: it was scheduled before the destination became an ordered one."""
        if not message.is_held():
            return  # another worker may send it
        try:
            state = RetryState.from_headers(message.headers)
        except ValueError:
            self._shared.submit(message)  # the handler quarantines the message
            return
        headers = state.forward_headers(message.headers)
        headers[HEADER_MSG_ID] = f"{message.identity}.due"
        headers[HEADER_ORIGINAL] = message.identity
        since = message.headers.get(HEADER_SINCE)
        headers[HEADER_SINCE] = since or (state.first_attempt_at or message.stored_at).isoformat()

        def on_stored(result: PublishAck | JetStreamError) -> None:
            if isinstance(result, PublishAck):
                message.ack()  # otherwise the server redelivers the message after `ack_wait`
            elif is_refused_for_good(result):
                reason = f"it cannot be moved to the ordered queue: {result}; its headers are dropped"
                kept = quarantine_publication(message, Code.INTERNAL, reason, keep_headers=False)
                self._shared.publisher.send(kept, on_kept)

        def on_kept(result: PublishAck | JetStreamError) -> None:
            if isinstance(result, PublishAck):
                message.ack()

        target = subjects.ordered(tenant, destination)
        self._shared.publisher.send(Publication(target, message.data, headers), on_stored)
        self.wake(tenant, destination)
