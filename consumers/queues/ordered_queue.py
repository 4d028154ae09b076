"""An ordered queue: the deliveries that wait for one destination with `ordering: fifo`.

The queue is a subject of the ordered stream with a consumer of its own, which hands out one message at a time. So the
server limits all workers together to one attempt, and hands the head out again after a crash. The worker that has the
queue's lease fills the queue and delivers from it. The head stays first until it is settled: between its attempts the
worker holds the message and marks it as in progress. The attempt log says which attempt is next, and when.
"""

import asyncio
import contextlib
import random
import secrets
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from consumers.attempts.log import StreamAttemptLog
from consumers.delivery.head_state import HeadState, HeadStateCache, head_state_from_results
from consumers.destinations.directory import ConfigurationDirectory
from consumers.model.request import DeliveryAttemptRequest
from consumers.queues.ordered_transfer import OrderedTransfer
from consumers.retries.server_clock import ServerClock
from messaging import management
from messaging.client.connection import IncomingMessage, NatsConnection, Subscription
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder, LeaseLost
from messaging.message import Message
from messaging.publisher import JetStreamPublisher
from messaging.pull_consumer import PullConsumer
from messaging.tenant_turns import FairTurns
from schemas import streams, subjects
from schemas.control_messages import HandedOver
from schemas.headers import HEADER_CLAIM, HEADER_MSG_ID, HEADER_ORIGINAL, HEADER_SINCE

LEASE_S: Final = 12
"""Lifetime of the lease: below the server's wait for an acknowledgement, which holds the head after a crash anyway."""
RENEW_INTERVAL_S: Final = 4.0
WATCH_INTERVAL_S: Final = 1.0
"""Interval at which the consumer is recreated if it no longer delivers."""
CHECK_INTERVAL_S: Final = 60.0
"""Time after which the server is asked all the same, about a consumer that seems to deliver or a head in progress."""
IDLE_RELEASE_S: Final = 10.0
"""A worker releases a queue that has been empty for this long."""
CONSUMER_IDLE_S: Final = 300
"""The server deletes a consumer from which no worker has pulled for this long."""
MAX_HOLD_S: Final = 1.0
"""Longest pause before a waiting head is examined again: its circuit breaker may have closed."""
RETRY_S: Final = 0.5
SETTLE_POLL_S: Final = 0.05
PULL_CAPACITY: Final = 64

_NANOSECONDS: Final = 1_000_000_000
_UNLIMITED_BYTES: Final = 1 << 31
_log = structlog.get_logger(__name__)


class OrderedQueueDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """Parts that all ordered queues of a worker share."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    leases: KvBucket
    directory: ConfigurationDirectory
    attempt_log: StreamAttemptLog
    head_states: HeadStateCache
    open_for_s: Callable[[str, str], float | None]
    """Seconds until a destination's circuit breaker lets attempts through; None when it does now."""
    requests: FairTurns
    """Turns of the management requests: the server has one queue of them for everybody."""
    submit: Callable[[Message], None]
    """Called with a head whose next attempt is due."""
    holds: Callable[[str], bool]
    """Whether a submitted head is not settled yet."""
    clock: ServerClock
    worker: str
    ack_wait_s: float
    max_per_tenant: int
    """Queues of a tenant that a worker serves at a time."""


class OrderedQueue:
    """The queue of one destination, from its lease until nothing is left to do."""

    def __init__(self, shared: OrderedQueueDependencies, tenant: str, destination: str) -> None:
        self._shared = shared
        self._tenant = tenant
        self._destination = destination
        self._key = f"{tenant}.{destination}"
        self._consumer = streams.ordered_consumer(tenant, destination)
        self._lease = Lease(
            shared.leases, self._key, LeaseHolder(by=shared.worker, run=secrets.token_hex(8)), ttl_s=LEASE_S
        )
        self._transfer = OrderedTransfer(
            shared.connection, shared.publisher, self._lease, tenant, destination, shared.clock.now
        )
        self._has_more = asyncio.Event()
        self._head_changed = asyncio.Event()
        """Set when the head has arrived, or no longer has to wait."""
        self._head: Message | None = None
        self._submitted: Message | None = None
        self._state: tuple[str, HeadState | None] | None = None
        """The head's identity, and its state if the message is valid."""
        self._unique = ""
        """Identity of the head of which no original is left."""
        self._attempted_until = 0
        """Sequence up to which heads may have results: what was stored before the lease, and what was submitted."""
        self._submitted_at = self._retry_called_at = self._secret_called_at = 0.0
        self._reconnects = -1
        """Reconnects until which lost calls are made up for."""
        self._marked_at = 0.0
        """The time at which the server last began to wait for the head's acknowledgement."""
        self._ask_at = 0.0
        """The time from which the server is asked whether the queue is empty."""
        self._pull = PullConsumer(
            shared.connection,
            stream=streams.ORDERED.name,
            consumer=self._consumer,
            on_message=self._on_message,
            room=lambda: PULL_CAPACITY,
            capacity=PULL_CAPACITY,
            ack_wait_s=None,
        )
        self.is_leased = False

    def notify(self, message: Message | None = None, handed: HandedOver | None = None) -> None:
        """Transfer what waits into the queue soon, `message` of the work stream and what is `handed` over included."""
        if message is not None:
            self._transfer.add(message)
        if handed is not None:
            self._transfer.note(handed)
        self._has_more.set()

    def return_messages(self, delay_s: float = 0) -> HandedOver | None:
        """Hand over the messages that were not transferred. Returns None if there are none."""
        return self._transfer.return_messages(delay_s)

    async def run(self, on_started: Callable[[], None]) -> bool:
        """Acquire the lease, and transfer and deliver until nothing is left. Returns False if another worker has it.

        `on_started` is called when the queue delivers. Raises `JetStreamError` when the queue can't be started.
        """
        if await self._lease.acquire() is not None:
            return False
        self.is_leased = True
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self._release)
            control = subjects.line(self._tenant, self._destination, "*")
            cleanup.push_async_callback(
                _unsubscribe, await self._shared.connection.subscribe(control, self._on_control)
            )
            self._make_up_for_calls()
            self._attempted_until = await self._last_sequence()
            await self._ensure_consumer()
            await self._pull.start()
            on_started()
            cleanup.push_async_callback(self._pull.stop)
            cleanup.callback(self._refuse_messages)
            await _run_until_first_ends(
                self._renew_lease(), self._watch_consumer(), self._transfer_all(), self._submit_due_heads()
            )
        return True

    async def _last_sequence(self) -> int:
        """Return the stream's last sequence. A worker that sends a later message needs the lease."""
        subject = subjects.ordered(self._tenant, self._destination)
        last = await self._shared.publisher.last_sequence(subject, of_stream=True)
        return sys.maxsize if last is None else last

    def _refuse_messages(self) -> None:
        self.is_leased = False

    async def _release(self) -> None:
        """Release the head, and then the lease, to the next worker."""
        self.is_leased = False
        self.return_messages()
        if self._head is not None:
            self._head.nak()
        await self._wait_until_settled()
        if self._lease.is_held:
            with contextlib.suppress(JetStreamError):
                await self._lease.release()

    async def _wait_until_settled(self) -> None:
        """Keep the lease while a head is being handled: only under the lease it is acknowledged."""
        renew_at = self._now() + RENEW_INTERVAL_S
        while self._submitted and self._shared.holds(self._submitted.identity) and self._lease.is_held:
            await asyncio.sleep(SETTLE_POLL_S)
            if self._now() >= renew_at:
                renew_at = self._now() + RENEW_INTERVAL_S
                with contextlib.suppress(JetStreamError):
                    await self._lease.renew()

    async def _on_control(self, incoming: IncomingMessage) -> None:
        if not incoming.subject.endswith(".now"):
            self.notify(handed=handed_over(incoming.data))
            return
        if incoming.data == subjects.SECRET_IS_THERE:
            self._secret_called_at = self._now()
        else:
            self._retry_called_at = self._now()
        self._head_changed.set()
        if incoming.reply:
            await self._shared.connection.publish(incoming.reply)

    def _make_up_for_calls(self) -> None:
        """Read the secret again that the head waits for: a call before the subscription was lost."""
        if self._reconnects != self._shared.connection.reconnects:
            self._reconnects = self._shared.connection.reconnects
            self._secret_called_at = self._now()

    async def _renew_lease(self) -> None:
        """Renew the lease until it is lost."""
        while True:
            await asyncio.sleep(_jittered(RENEW_INTERVAL_S))
            try:
                await self._lease.renew()
            except LeaseLost:
                return
            except JetStreamError as error:
                _log.warning("ordered_queue.renew_failed", queue=self._key, error=str(error))
                if not self._lease.is_held:
                    return

    async def _watch_consumer(self) -> None:
        """Recreate the consumer if it no longer delivers, until the queue has been empty for a while.

        While the head is held here, the queue is not empty, and the server is not asked.
        """
        check_at = self._now() + _jittered(CHECK_INTERVAL_S)
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._make_up_for_calls()
            try:
                if not self._pull.is_working or self._now() >= check_at:
                    await self._ensure_consumer()
                    check_at = self._now() + _jittered(CHECK_INTERVAL_S)
                if self._head is None and self._now() >= self._ask_at:
                    self._ask_at = self._now() + _jittered(CHECK_INTERVAL_S)
                    if await self._is_empty():
                        return
            except JetStreamError as error:
                _log.warning("ordered_queue.check_failed", queue=self._key, error=str(error))

    async def _is_empty(self) -> bool:
        async with self._shared.requests.turn(self._tenant):
            info = await management.consumer_info(self._shared.connection, streams.ORDERED.name, self._consumer)
        return not info.num_pending and not info.num_ack_pending and not self._has_more.is_set()

    async def _transfer_all(self) -> None:
        """Transfer after each notification, as long as the destination is an ordered one."""
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            self._ask_at = self._now() + IDLE_RELEASE_S
            try:
                destination = await self._shared.directory.destination(self._tenant, self._destination)
                if destination is None or destination.ordering != "fifo":
                    self.return_messages()
                else:
                    if await self._transfer.move():
                        self._has_more.set()
                    self._head_changed.set()  # it waits while its original is there
            except LeaseLost:
                return
            except JetStreamError as error:
                _log.warning("ordered_queue.transfer_failed", queue=self._key, error=str(error))
                await asyncio.sleep(RETRY_S)
                self._has_more.set()

    def _on_message(self, message: Message) -> None:
        """Keep the head, delivered for the first time or again."""
        if not self.is_leased:
            message.nak()
            return
        message.lease = self._lease.term
        self._head = message
        self._marked_at = self._now()
        self._head_changed.set()
        self._pull.request_more()

    async def _submit_due_heads(self) -> None:
        while True:
            await self._head_changed.wait()
            self._head_changed.clear()
            head = self._head
            if head is None:
                continue
            if self._is_in_flight(head):
                await self._hold(SETTLE_POLL_S)
                continue
            try:
                if await self._has_original(head):
                    self._has_more.set()
                    await self._hold(RETRY_S)
                    continue
                state = await self._head_state(head)
            except JetStreamError as error:
                _log.warning("ordered_queue.read_failed", queue=self._key, error=str(error))
                await self._hold(RETRY_S)
                continue
            wait_s = self._wait_s(state) if self._lease.is_held else RETRY_S
            if self._head is not head:
                continue  # another one has arrived, or a copy, since its state was read
            if wait_s > 0:
                await self._hold(min(wait_s, MAX_HOLD_S, self._shared.ack_wait_s / 3))
            else:
                self._submit(head, state)

    def _is_in_flight(self, head: Message) -> bool:
        """Return whether an earlier copy is still being handled. Its result would be missing in the head's state."""
        submitted = self._submitted
        return submitted is not None and submitted.identity == head.identity and self._shared.holds(head.identity)

    async def _hold(self, wait_s: float) -> None:
        """Hold the head for a while, or until it changes."""
        is_marked = self._now() - self._marked_at < self._shared.ack_wait_s / 3
        if self._head is not None and not is_marked and self._lease.is_held:
            self._head.in_progress()
            self._marked_at = self._now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._head_changed.wait()
        self._head_changed.set()

    def _wait_s(self, state: HeadState | None) -> float:
        open_for_s = self._shared.open_for_s(self._tenant, self._destination) or 0.0
        if state is None or state.due is None:
            return open_for_s
        # A call that came before the attempt ended was not about the wait that followed the attempt.
        since = max(self._submitted_at, state.noted_at)
        if self._retry_called_at > since or (state.retry_state.secret_waits and self._secret_called_at > since):
            return open_for_s
        return max(open_for_s, (state.due - self._shared.clock.now()).total_seconds())

    def _submit(self, head: Message, state: HeadState | None) -> None:
        if state is not None:
            since = head.headers.get(HEADER_SINCE) or head.stored_at.isoformat()
            headers = state.retry_state.forward_headers(head.headers)
            for name in (HEADER_MSG_ID, HEADER_CLAIM):  # they say whether the API has claimed the id
                if name in head.headers:
                    headers[name] = head.headers[name]
            if state.is_settled:
                headers[HEADER_SINCE] = since
            head.headers = headers
        self._submitted, self._head, self._state = head, None, None
        self._attempted_until = max(self._attempted_until, head.sequence)
        self._submitted_at = self._now()
        self._ask_at = self._submitted_at + IDLE_RELEASE_S
        self._shared.submit(head)

    async def _has_original(self, head: Message) -> bool:
        """Return whether the message is still there that `head` is a copy of: it may be in flight elsewhere."""
        original = head.headers.get(HEADER_ORIGINAL)
        if original is None or self._unique == head.identity or self._transfer.has_moved(original):
            return False
        try:
            delivery = DeliveryAttemptRequest.from_message(head, max_payload_bytes=_UNLIMITED_BYTES)
        except ValueError:
            return False  # the handler quarantines the message
        if await self._shared.attempt_log.has_original(delivery):
            return True
        self._unique = head.identity
        return False

    async def _head_state(self, head: Message) -> HeadState | None:
        """Return the head's state; None when the message is not valid. Raises `JetStreamError`."""
        state = self._shared.head_states.take(self._key, head)
        if state is None and self._state is not None and self._state[0] == head.identity:
            return self._state[1]
        if state is None:
            state = await self._read_head_state(head)
        self._state = head.identity, state
        return state

    async def _read_head_state(self, head: Message) -> HeadState | None:
        try:
            delivery = DeliveryAttemptRequest.from_message(head, max_payload_bytes=_UNLIMITED_BYTES)
            since = delivery.since
        except ValueError:
            return None  # the handler quarantines the message
        if since is None and head.sequence > self._attempted_until:
            return HeadState(delivery.retry_state)
        return head_state_from_results(delivery.retry_state, await self._shared.attempt_log.read_results(delivery))

    async def _ensure_consumer(self) -> None:
        config = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "filter_subject": subjects.ordered(self._tenant, self._destination),
            "ack_policy": "explicit",
            "ack_wait": int(self._shared.ack_wait_s * _NANOSECONDS),
            "max_ack_pending": 1,
            "inactive_threshold": CONSUMER_IDLE_S * _NANOSECONDS,
        }
        async with self._shared.requests.turn(self._tenant):
            await management.create_consumer(self._shared.connection, streams.ORDERED.name, config)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def handed_over(data: bytes) -> HandedOver | None:
    """Return what a signal to a queue hands over, or None: others hand over nothing."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(data, type=HandedOver) if data else None
    return None


def _jittered(interval_s: float) -> float:
    return interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):  # the client library, while the connection closes
        await subscription.unsubscribe()


async def _run_until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, and cancel the others. Raises what that one raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
