"""Continuous pull of a durable consumer's messages, by callback.

Pull requests keep as many messages outstanding as there is room for. A request that waits at the server is lost with
the connection, so every reconnect sends a new one. A watchdog does so when the server's heartbeats stop.

The requests of a few seconds share an inbox, and then the next inbox begins. A message that arrives at an inbox was not
delivered before the inbox existed. So its term counts from then, however long it waited in the socket.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec
import structlog

from messaging.client.connection import API_TIMEOUT_S, NatsConnection, Subscription
from messaging.client.errors import ServerUnavailable
from messaging.client.headers import read_headers
from messaging.client.permission_violations import PermissionViolation
from messaging.client.term import Term, clock, held_s
from messaging.management import NANOSECONDS
from messaging.message import Message
from schemas.subjects import lane_of

MAX_EXPIRES_S: Final = 30.0
MAX_HEARTBEAT_S: Final = 5.0
INBOXES_PER_ACK_WAIT: Final = 6
"""New inboxes in the time in which a message has to be acknowledged."""
MAX_INBOXES: Final = 8
MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MIN_SILENCE_S: Final = 1.0
"""A shorter silence of the server is not noticed, however short the interval of its heartbeats is."""
MAX_SUBJECTS: Final = 16_384
"""Limit of the subject cache."""
REFUSAL_S: Final = 0.5
"""A server rejects a request at once; without a rejection in this time, the request was accepted."""

_HINT: Final = "the consumer does not exist, or has no leader yet; run `oneprotect apply`"
_log = structlog.get_logger(__name__)


class _Inbox:
    """An inbox, and the requests that were sent with it. Messages that arrive at it have one term."""

    __slots__ = ("outstanding", "subject", "subscription", "term")

    subscription: Subscription

    def __init__(self, subject: str, term: Term) -> None:
        self.subject = subject
        self.term = term
        self.outstanding = 0


class PullConsumer:
    """Pulls a durable consumer's messages and passes them to `on_message`.

    `room()` returns how many more messages the caller accepts now, and never more than `capacity`. Call `request_more`
    when there is room again after there was none.
    """

    def __init__(
        self,
        connection: NatsConnection,
        *,
        stream: str,
        consumer: str,
        on_message: Callable[[Message], None],
        room: Callable[[], int],
        capacity: int,
        ack_wait_s: float | None,
        lane_of: Callable[[str], str] = lane_of,
    ) -> None:
        """Create a pull consumer that requests nothing yet.

        Args:
            ack_wait_s: The server's wait for an acknowledgement, from which the terms follow. Without it messages have
                no term: then a lease must ensure that no other process pulls.
        """
        self._connection = connection
        self.on_leader_change: Callable[[], None] = lambda: None
        """Called when requests were refused or lost: another server may lead the consumer from now on."""
        self.outstanding = 0
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._on_message = on_message
        self._room = room
        self._batch = min(capacity, MAX_BATCH)
        self._worth_asking: Final = (self._batch + 1) // 2
        """Smallest number of messages that is worth a request."""
        self._refill_below: Final = self._batch - self._worth_asking
        """Number of outstanding messages up to which a request may be worth it."""
        self._lane_of = lane_of
        self._subjects: dict[bytes, tuple[str, str]] = {}
        """Decoded subject and lane of each received subject."""
        self._held_s = inf if ack_wait_s is None else held_s(ack_wait_s)
        self._inbox_s = inf if ack_wait_s is None else ack_wait_s / INBOXES_PER_ACK_WAIT
        self._expires_s = min(MAX_EXPIRES_S, 2 * self._inbox_s)
        self._heartbeat_s = min(MAX_HEARTBEAT_S, self._inbox_s)
        """At most half of the expiry: the server requires that."""
        self._silence_s = max(MIN_SILENCE_S, self._heartbeat_s)
        self._inboxes: list[_Inbox] = []
        """All inboxes at which messages may arrive. New requests use the last one."""
        self._next_inbox_at = 0.0
        self._received_at = 0.0
        self._paused_until = 0.0
        self._refused = True
        self._stopping = False

    async def start(self) -> None:
        """Start to pull."""
        await self._begin_inbox()
        self._connection.on_reconnect(self._restart)
        self._connection.permissions.on_violation(self._on_violation)
        self._watchdog = asyncio.create_task(self._watch(), name=f"watchdog {self._name}")
        self.request_more()

    async def stop(self) -> None:
        """Stop to pull. Pending messages reach `on_message` before this returns."""
        self._stopping = True
        self._watchdog.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watchdog
        with contextlib.suppress(Exception):  # the connection may be closed
            await self._connection.drain([inbox.subscription for inbox in self._inboxes])

    @property
    def is_working(self) -> bool:
        """True while the server sends messages or heartbeats, or there is no room for more."""
        if not self._connection.is_connected:
            return False
        if not self.outstanding:
            return not self._refused
        silent_s = time.monotonic() - self._received_at
        return silent_s <= 3 * self._silence_s and (not self._refused or silent_s > REFUSAL_S)

    def request_more(self) -> None:
        """Request more messages if that is worth a request, and the server has not just rejected one."""
        batch = min(self._room(), self._batch) - self.outstanding
        if batch < self._worth_asking or self._stopping or time.monotonic() < self._paused_until:
            return
        if self.outstanding == 0:
            self._received_at = time.monotonic()
        request = {
            "batch": batch,
            "max_bytes": MAX_BATCH_BYTES,
            "expires": int(self._expires_s * NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat_s * NANOSECONDS),
        }
        inbox = self._inboxes[-1]
        try:
            self._connection.post(self._subject, msgspec.json.encode(request), reply=inbox.subject)
        except ServerUnavailable:
            return  # the reconnect sends a new request
        self.outstanding += batch
        inbox.outstanding += batch

    def _receive(self, inbox: _Inbox, subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        self._received_at = time.monotonic()
        if not reply:
            self._on_status(inbox, read_headers(block))
            return
        if inbox.outstanding > 0:
            inbox.outstanding -= 1
            self.outstanding -= 1
        self._refused = False
        known = self._subjects.get(subject)
        if known is None:
            known = self._cache_subject(subject)
        self._on_message(Message(known[0], known[1], reply, data, block, self._connection, inbox.term))
        if self.outstanding <= self._refill_below:
            self.request_more()

    def _cache_subject(self, subject: bytes) -> tuple[str, str]:
        if len(self._subjects) >= MAX_SUBJECTS:
            self._subjects.clear()
        text = decode_subject(subject)
        known = self._subjects[subject] = (text, self._lane_of(text))
        return known

    def _on_status(self, inbox: _Inbox, headers: dict[str, str]) -> None:
        status = headers.get("Status", "503")
        if status == "100":
            self._refused = False
            return
        if inbox not in self._inboxes:
            return
        # The request has ended. The status has the number of undelivered messages, or no request is left.
        ended = min(inbox.outstanding, int(headers.get("Nats-Pending-Messages", inbox.outstanding)))
        inbox.outstanding -= ended
        self.outstanding -= ended
        if status in ("404", "408") or "Nats-Pending-Messages" in headers:
            self.request_more()
        else:  # no such consumer, no leader, shutting down: the watchdog retries
            self._refused = True
            self._paused_until = self._received_at + self._heartbeat_s / 4
            reason = _HINT if status == "503" else headers.get("Description", "").strip()
            _log.warning("pull.refused", consumer=self._name, status=status, reason=reason)
            self.on_leader_change()

    def _on_violation(self, violation: PermissionViolation) -> None:
        """Mark the pull as rejected. The watchdog retries, in case the permission is granted later."""
        if error := self._connection.permissions.error_for(violation, self._subject):
            self._refused = True
            _log.error("pull.refused", consumer=self._name, reason=str(error))

    async def _restart(self) -> None:
        """Count all requests as lost, and send new ones."""
        if self._stopping:
            return
        for inbox in self._inboxes:
            inbox.outstanding = 0
        self.outstanding = 0
        self._paused_until = 0.0
        if self._inbox_s < inf:
            await self._begin_inbox()
        self.request_more()

    async def _begin_inbox(self) -> None:
        """Begin the inbox of the next requests, and end those at which nothing in time can arrive."""
        began = clock()
        self._next_inbox_at = began + self._inbox_s
        inbox = _Inbox(self._connection.new_inbox(), Term(began + self._held_s))
        inbox.subscription = await self._connection.listen(inbox.subject, functools.partial(self._receive, inbox))
        self._inboxes.append(inbox)
        while self._inboxes[0].term.until < began or len(self._inboxes) > MAX_INBOXES:
            oldest = self._inboxes.pop(0)
            self.outstanding -= oldest.outstanding
            with contextlib.suppress(Exception):  # the connection may be closed
                await oldest.subscription.unsubscribe()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s / 2)
            silent_s = time.monotonic() - self._received_at
            if self.outstanding and silent_s > 2.2 * self._silence_s and self._connection.is_connected:
                _log.warning("pull.silent", consumer=self._name, silent_s=round(silent_s, 1))
                self.on_leader_change()
                await self._restart()
                continue
            if clock() >= self._next_inbox_at and self._connection.is_connected:
                await self._begin_inbox()
            self.request_more()


def decode_subject(subject: bytes) -> str:
    """Return a subject as text. A producer may publish to one that is no UTF-8, and the message must be settled."""
    return subject.decode("ascii", "backslashreplace")


async def fetch(connection: NatsConnection, *, stream: str, consumer: str, batch: int) -> list[Message]:
    """Return at most `batch` messages that are available now.

    Raises `NotAllowed`, or `ServerUnavailable` when the consumer does not exist.
    """
    messages: list[Message] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    inbox = connection.new_inbox()

    def receive(subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        if not reply:
            status = read_headers(block).get("Status", "503")
        else:
            text = decode_subject(subject)
            messages.append(Message(text, lane_of(text), reply, data, block, connection))
            status = "" if len(messages) < batch else "404"
        if status and not ended.done():
            ended.set_result(status)

    subscription = await connection.listen(inbox, receive)
    try:
        request = msgspec.json.encode({"batch": batch, "no_wait": True})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        async with connection.permissions.guard(subject), asyncio.timeout(API_TIMEOUT_S):
            connection.post(subject, request, reply=inbox)
            status = await ended
    except TimeoutError:
        status = "503"
    finally:
        with contextlib.suppress(Exception):  # the connection may be closing
            await subscription.unsubscribe()
    if status == "503" and not messages:
        raise ServerUnavailable(f"no reply from consumer {stream}/{consumer}")
    return messages
