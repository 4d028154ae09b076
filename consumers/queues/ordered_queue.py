"""A line: what waits for one destination with `ordering: fifo`, and whoever has the lease to move and deliver it.

The line is a subject of the ordered stream with a consumer of its own, which has one message out at a time: the server
sees to it that there is one attempt at a time over all workers, and hands the same message out again after a crash. The
head stays first until it is settled for good. Between its attempts it is held here, marked as in progress, so that the
next one can begin the moment it may; which one that is, the results on record say.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from consumers.attempts.log import StreamAttemptLog
from consumers.delivery.head_state import HeadState, HeadStateCache, head_state_from_results
from consumers.destinations.directory import ConfigurationDirectory
from consumers.model.request import DeliveryAttemptRequest
from consumers.queues.ordered_transfer import OrderedTransfer
from messaging import management
from messaging.client.connection import IncomingMessage, NatsConnection, Subscription
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder, LeaseLost
from messaging.publisher import JetStreamPublisher
from messaging.pull_consumer import Message, PullConsumer
from schemas import subjects

RENEW_S: Final = 1.0
"""How often the lease is renewed, and the consumer found to be there."""
LINGER_S: Final = 10.0
"""How long a line is kept that has nothing to do: the next message finds it set up."""
IDLE_S: Final = 300
"""The server forgets the consumer after so long without a line that asks it for more."""
LOOK_S: Final = 1.0
"""How often a head that waits is looked at anew: its destination's rest may be over."""
PAUSE_S: Final = 0.5
ASKED_AHEAD: Final = 64

_NANOSECONDS: Final = 1_000_000_000
_EVERYTHING: Final = 1 << 31
_log = structlog.get_logger(__name__)


class OrderedQueueDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What all lines of a consumer share."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    leases: KvBucket
    directory: ConfigurationDirectory
    attempt_log: StreamAttemptLog
    head_states: HeadStateCache
    open_for_s: Callable[[str, str], float | None]
    """For how long a destination is to be left alone, if it is."""
    submit: Callable[[Message], None]
    """Takes a head whose next attempt may begin."""
    worker: str
    ack_wait_s: float


class OrderedQueue:
    """The line of one destination, from taking its lease until there is nothing more to do."""

    def __init__(self, around: OrderedQueueDependencies, tenant: str, destination: str) -> None:
        self._around = around
        self._tenant = tenant
        self._destination = destination
        self._key = f"{tenant}.{destination}"
        self._name = f"line_{tenant}_{destination}"
        self._lease = Lease(around.leases, self._key, LeaseHolder(by=around.worker, run=secrets.token_hex(8)))
        self._mover = OrderedTransfer(around.connection, around.publisher, self._lease, tenant, destination)
        self._more = asyncio.Event()
        self._stirred = asyncio.Event()
        """Something has happened to the head: it has come, or need not wait."""
        self._head: Message | None = None
        self._known: tuple[str, HeadState | None] | None = None
        self._made_at: str | None = None
        self._is_continuous = False
        """Whether the last head came from the same consumer: then one that comes for the first time is fresh."""
        self._submitted_at = self._called_at = self._resumed_at = 0.0
        self._busy_at = self._now()
        self._pull = PullConsumer(
            around.connection,
            stream=subjects.ORDERED.name,
            consumer=self._name,
            on_message=self._take,
            room=lambda: ASKED_AHEAD,
            capacity=ASKED_AHEAD,
        )
        self.is_leased = False

    def notify(self) -> None:
        """There is something to move."""
        self._more.set()

    async def run(self) -> bool:
        """Take the lease, and move and deliver until there is nothing left. False, at once, if another one has it.

        Raises `JetStreamError` when it can't even begin.
        """
        if await self._lease.take() is not None:
            return False
        self.is_leased = True
        self._more.set()
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(self._release)
            word = subjects.line(self._tenant, self._destination, "*")
            hearing = await self._around.connection.subscribe(word, self._hear)
            ending.push_async_callback(_unsubscribe, hearing)
            await self._find_consumer()
            await self._pull.start()
            ending.push_async_callback(self._pull.stop)
            ending.callback(self._begin_to_end)
            await _first_of(self._keep(), self._move(), self._advance())
        return True

    def _begin_to_end(self) -> None:
        self.is_leased = False

    async def _release(self) -> None:
        """Let the next one have it: the head first, and then the lease."""
        self.is_leased = False
        if self._head is not None:
            self._head.nak()
        if self._lease.is_held:
            with contextlib.suppress(JetStreamError):
                await self._lease.release()

    async def _hear(self, incoming: IncomingMessage) -> None:
        if incoming.subject.endswith(".now"):
            if incoming.data == subjects.SECRET_IS_THERE:
                self._resumed_at = self._now()
            else:
                self._called_at = self._now()
            self._stirred.set()
        else:
            self._more.set()

    async def _keep(self) -> None:
        """Keep lease and consumer, until the lease is lost or there has been nothing to do for a while."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._lease.renew()
                await self._find_consumer()
                if self._now() - self._busy_at > LINGER_S and await self._is_empty():
                    return
            except LeaseLost:
                return
            except JetStreamError as error:
                _log.warning("line.unkept", line=self._key, error=str(error))
                if not self._lease.is_held:
                    return

    async def _is_empty(self) -> bool:
        info = await management.consumer_info(self._around.connection, subjects.ORDERED.name, self._name)
        return not info.num_pending and not info.num_ack_pending and not self._more.is_set()

    async def _move(self) -> None:
        """Move whatever is told of, as long as the destination wants it in order."""
        while True:
            await self._more.wait()
            self._more.clear()
            self._busy_at = self._now()
            try:
                destination = await self._around.directory.destination(self._tenant, self._destination)
                if destination is not None and destination.ordering == "fifo" and await self._mover.move():
                    self._more.set()
            except LeaseLost:
                return
            except JetStreamError as error:
                _log.warning("line.unmoved", line=self._key, error=str(error))
                await asyncio.sleep(PAUSE_S)
                self._more.set()

    def _take(self, message: Message) -> None:
        """The head comes, for the first time or again."""
        if not self.is_leased:
            message.nak()
            return
        self._head = message
        self._busy_at = self._now()
        self._stirred.set()
        self._pull.request_more()

    async def _advance(self) -> None:
        """Let each head go when its time has come."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            if self._head is None:
                continue
            try:
                standing = await self._stand(self._head)
            except JetStreamError as error:
                _log.warning("line.unread", line=self._key, error=str(error))
                await self._pause(PAUSE_S)
                continue
            wait_s = self._wait_s(standing)
            if wait_s > 0:
                await self._pause(min(wait_s, LOOK_S, self._around.ack_wait_s / 3))
            else:
                self._submit(self._head, standing)

    async def _pause(self, pause_s: float) -> None:
        """Hold the head for a while, or until it is stirred."""
        if self._head is not None:
            self._head.in_progress()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stirred.wait()
        self._stirred.set()

    def _wait_s(self, standing: HeadState | None) -> float:
        rest_s = self._around.open_for_s(self._tenant, self._destination) or 0.0
        if standing is None or standing.due is None:
            return rest_s
        # A call from before the attempt had ended was not about the wait that came of it.
        waits_since = max(self._submitted_at, standing.noted_at)
        if self._called_at > waits_since or (standing.progress.secret_waits and self._resumed_at > waits_since):
            return rest_s
        return max(rest_s, (standing.due - datetime.now(UTC)).total_seconds())

    def _submit(self, head: Message, standing: HeadState | None) -> None:
        if standing is not None:
            since = head.headers.get(subjects.HEADER_SINCE) or head.stored_at.isoformat()
            headers = standing.progress.forward_headers(head.headers)
            if standing.is_settled:
                headers[subjects.HEADER_SINCE] = since
            head.headers = headers
        self._head = self._known = None
        self._submitted_at = self._now()
        self._around.submit(head)

    async def _stand(self, head: Message) -> HeadState | None:
        """Where the head stands; None when it can't be understood. Raises `JetStreamError`."""
        noted = self._around.head_states.take(self._key, head)
        if noted is None and self._known is not None and self._known[0] == head.identity:
            return self._known[1]
        if noted is None:
            noted = await self._look_up(head)
        self._known = head.identity, noted
        self._is_continuous = True
        return noted

    async def _look_up(self, head: Message) -> HeadState | None:
        try:
            delivery = DeliveryAttemptRequest.from_message(head, max_payload_bytes=_EVERYTHING)
            since = delivery.since
        except ValueError:
            return None  # the handler says what is wrong with it
        if head.deliveries == 1 and since is None and self._is_continuous:
            return HeadState(delivery.progress)
        return head_state_from_results(delivery.progress, await self._around.attempt_log.read_results(delivery))

    async def _find_consumer(self) -> None:
        """Make the line's consumer if it is not there."""
        config = {
            "name": self._name,
            "durable_name": self._name,
            "filter_subject": subjects.ordered(self._tenant, self._destination),
            "ack_policy": "explicit",
            "ack_wait": int(self._around.ack_wait_s * _NANOSECONDS),
            "max_ack_pending": 1,
            "inactive_threshold": IDLE_S * _NANOSECONDS,
        }
        info = await management.create_consumer(self._around.connection, subjects.ORDERED.name, config)
        if info.created != self._made_at:
            self._made_at = info.created
            self._is_continuous = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _unsubscribe(hearing: Subscription) -> None:
    with contextlib.suppress(Exception):  # the client library, when the connection is going
        await hearing.unsubscribe()


async def _first_of(*doings: Coroutine[Any, Any, None]) -> None:
    """Do all of them until one ends. Raises what that one raised."""
    tasks = [asyncio.create_task(doing) for doing in doings]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
