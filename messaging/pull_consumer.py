"""Continuous pull of a durable consumer's messages, by callback.

One inbox receives all messages. Pull requests keep as many messages outstanding as there is room for. A request that
waits at the server is lost with the connection, so every reconnect sends a new one. A watchdog does so when the
server's heartbeats stop.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from messaging.client.connection import API_TIMEOUT_S, NatsConnection
from messaging.client.errors import ServerUnavailable
from messaging.client.headers import read_headers
from messaging.client.permission_violations import PermissionViolation
from messaging.management import NANOSECONDS
from messaging.message import Message
from schemas.subjects import lane_of

EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 5.0
MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MAX_SUBJECTS: Final = 16_384
"""Limit of the subject cache."""
REFUSAL_S: Final = 0.5
"""A server rejects a request at once; without a rejection in this time, the request was accepted."""

_HINT: Final = "the consumer does not exist, or has no leader yet; run `oneprotect apply`"
_log = structlog.get_logger(__name__)


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
        lane_of: Callable[[str], str] = lane_of,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._connection = connection
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
        self._heartbeat_s = heartbeat_s
        self._inbox = connection.new_inbox()
        self._generation = 0
        self._received_at = 0.0
        self._paused_until = 0.0
        self._refused = True
        self._stopping = False

    async def start(self) -> None:
        """Start to pull."""
        self._subscription = await self._connection.listen(self._inbox + ".*", self._receive)
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
            await self._subscription.drain()

    @property
    def is_working(self) -> bool:
        """True while the server sends messages or heartbeats, or there is no room for more."""
        if not self._connection.is_connected:
            return False
        if not self.outstanding:
            return not self._refused
        silent_s = time.monotonic() - self._received_at
        return silent_s <= 3 * self._heartbeat_s and (not self._refused or silent_s > REFUSAL_S)

    def request_more(self) -> None:
        """Request more messages if that is worth a request, and the server has not just rejected one."""
        batch = min(self._room(), self._batch) - self.outstanding
        if batch < self._worth_asking or self._stopping or time.monotonic() < self._paused_until:
            return
        if self.outstanding == 0:
            self._received_at = time.monotonic()
        self.outstanding += batch
        request = {
            "batch": batch,
            "max_bytes": MAX_BATCH_BYTES,
            "expires": int(EXPIRES_S * NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat_s * NANOSECONDS),
        }
        try:
            self._connection.post(
                self._subject, msgspec.json.encode(request), reply=f"{self._inbox}.{self._generation}"
            )
        except ServerUnavailable:
            self.outstanding -= batch  # the reconnect sends a new request

    def _receive(self, subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        self._received_at = time.monotonic()
        if not reply:
            self._on_status(subject, read_headers(block))
            return
        if self.outstanding > 0:
            self.outstanding -= 1
        self._refused = False
        known = self._subjects.get(subject)
        if known is None:
            known = self._cache_subject(subject)
        self._on_message(Message(known[0], known[1], reply, data, block, self._connection))
        if self.outstanding <= self._refill_below:
            self.request_more()

    def _cache_subject(self, subject: bytes) -> tuple[str, str]:
        if len(self._subjects) >= MAX_SUBJECTS:
            self._subjects.clear()
        text = decode_subject(subject)
        known = self._subjects[subject] = (text, self._lane_of(text))
        return known

    def _on_status(self, subject: bytes, headers: dict[str, str]) -> None:
        status = headers.get("Status", "503")
        if status == "100":
            self._refused = False
        if status == "100" or subject != f"{self._inbox}.{self._generation}".encode():
            return
        # The request has ended. The status has the number of undelivered messages, or no request is left.
        self.outstanding = max(0, self.outstanding - int(headers.get("Nats-Pending-Messages", self.outstanding)))
        if status in ("404", "408") or "Nats-Pending-Messages" in headers:
            self.request_more()
        else:  # no such consumer, no leader, shutting down: the watchdog retries
            self._refused = True
            self._paused_until = self._received_at + self._heartbeat_s / 4
            reason = _HINT if status == "503" else headers.get("Description", "").strip()
            _log.warning("pull.refused", consumer=self._name, status=status, reason=reason)

    def _on_violation(self, violation: PermissionViolation) -> None:
        """Mark the pull as rejected. The watchdog retries, in case the permission is granted later."""
        if error := self._connection.permissions.error_for(violation, self._subject):
            self._refused = True
            _log.error("pull.refused", consumer=self._name, reason=str(error))

    async def _restart(self) -> None:
        self._generation += 1
        self._paused_until = 0.0
        self.outstanding = 0
        self.request_more()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s / 2)
            silent_s = time.monotonic() - self._received_at
            if self.outstanding and silent_s > 2.2 * self._heartbeat_s and self._connection.is_connected:
                _log.warning("pull.silent", consumer=self._name, silent_s=round(silent_s, 1))
                await self._restart()
            else:
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
