"""A continuous pull: a durable consumer's messages, by callback, with as many asked for as there is room.

The client library's `fetch` costs a task and a timer for every message. Here one inbox subscription receives all;
what is outstanding is counted, and topped up in batches. A request that is parked at the server dies with it and
nobody sends it again, so every reconnect asks anew, and a watchdog does when the server's heartbeats stay away.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from messaging.client.connection import API_TIMEOUT_S, NatsConnection
from messaging.client.errors import ServerUnavailable
from messaging.client.headers import block_of, read_headers
from messaging.client.permission_violations import PermissionViolation
from schemas.subjects import lane_of

EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 5.0
MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MAX_SUBJECTS: Final = 16_384
"""So many subjects are remembered at a time."""
REFUSAL_S: Final = 0.5
"""A server that refuses a request does so at once: after so long, silence is consent."""

_NANOSECONDS: Final = 1_000_000_000
_HINT: Final = "no such consumer, or no leader yet: was `oneprotect apply` run?"
_log = structlog.get_logger(__name__)


class Message:
    """A message of a durable consumer, to be settled exactly once.

    `lane`: what it has in common with others, as `lane_of` says of its subject.
    """

    __slots__ = (
        "_connection",
        "_headers",
        "_tokens",
        "data",
        "deliveries",
        "header_block",
        "identity",
        "lane",
        "reply",
        "stored_ns",
        "stream",
        "subject",
    )

    def __init__(
        self, subject: str, lane: str, reply: bytes, data: bytes, header_block: bytes, connection: NatsConnection
    ) -> None:
        self.subject = subject
        self.lane = lane
        self.data = data
        self.header_block = header_block
        """Its headers as they came; empty without any."""
        self.reply = reply
        self._headers: dict[str, str] | None = None
        self._connection = connection
        # $JS.ACK[.domain.account].stream.consumer.deliveries.stream_seq.consumer_seq.nanoseconds.pending[.token]
        tokens = reply.decode().split(".")
        self._tokens = tokens = tokens[2:] if len(tokens) < 11 else tokens[4:]
        self.stream = tokens[0]
        """The stream that holds it."""
        self.identity = f"{tokens[0]}.{tokens[3]}"
        """Names it uniquely, however often it is handed out."""
        self.deliveries = int(tokens[2])
        """How often the server has handed it out, this time included."""
        self.stored_ns = int(tokens[5])
        """When the server stored it, in unix nanoseconds."""

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, taken apart when they are first looked at."""
        if self._headers is None:
            self._headers = read_headers(self.header_block) if self.header_block else {}
        return self._headers

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._headers, self.header_block = headers, block_of(headers)

    @property
    def sequence(self) -> int:
        """Its place in the stream."""
        return int(self._tokens[3])

    @property
    def stored_at(self) -> datetime:
        """When the server stored it."""
        return datetime.fromtimestamp(self.stored_ns / _NANOSECONDS, UTC)

    # Should one of these get lost, the server hands the message out again and the recorded result settles it.

    def ack(self) -> None:
        """Its outcome is stored: the server may let go of it."""
        self._connection.send_reply(self.reply, b"+ACK")

    def nak(self, delay_s: float = 0) -> None:
        """Hand it back, to be handed out again after `delay_s`."""
        delay = b' {"delay": %d}' % int(delay_s * _NANOSECONDS) if delay_s else b""
        self._connection.send_reply(self.reply, b"-NAK" + delay)

    def in_progress(self) -> None:
        """Still being worked on: the server's patience starts afresh."""
        self._connection.send_reply(self.reply, b"+WPI")


class PullConsumer:
    """Keeps a durable consumer's messages coming to `on_message`, never more than `room()` allows.

    `room` tells how many more could be taken now, `capacity` what it is at most; call `request_more` whenever it has grown.
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
        self.worth_asking: Final = (self._batch + 1) // 2
        """It is worth a request to ask for so many."""
        self.refill_below: Final = self._batch - self.worth_asking
        """With no more than this outstanding, a request may be worth it."""
        self._lane_of = lane_of
        self._subjects: dict[bytes, tuple[str, str]] = {}
        """Subjects that have come, as text, with their lanes."""
        self._heartbeat_s = heartbeat_s
        self._inbox = connection.new_inbox()
        self._generation = 0
        self._heard_at = 0.0
        self._patient_until = 0.0
        self._refused = True
        self._stopping = False

    async def start(self) -> None:
        """Begin to pull."""
        self._subscription = await self._connection.listen(self._inbox + ".*", self._receive)
        self._connection.on_reconnect(self._restart)
        self._connection.permissions.on_violation(self._on_denied)
        self._watchdog = asyncio.create_task(self._watch(), name=f"watchdog {self._name}")
        self.request_more()

    async def stop(self) -> None:
        """Take no more. What is on its way still reaches `on_message` before this returns."""
        self._stopping = True
        self._watchdog.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watchdog
        with contextlib.suppress(Exception):  # whatever the client library says when the connection is gone
            await self._subscription.drain()

    @property
    def is_working(self) -> bool:
        """Whether the server brings what there is: it sends messages or heartbeats, or there is no room for more."""
        if not self._connection.is_connected:
            return False
        if not self.outstanding:
            return not self._refused
        silent_s = time.monotonic() - self._heard_at
        return silent_s <= 3 * self._heartbeat_s and (not self._refused or silent_s > REFUSAL_S)

    def request_more(self) -> None:
        """Ask for more if it is worth it, and the server has not just refused."""
        batch = min(self._room(), self._batch) - self.outstanding
        if batch < self.worth_asking or self._stopping or time.monotonic() < self._patient_until:
            return
        if self.outstanding == 0:
            self._heard_at = time.monotonic()
        self.outstanding += batch
        request = {
            "batch": batch,
            "max_bytes": MAX_BATCH_BYTES,
            "expires": int(EXPIRES_S * _NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat_s * _NANOSECONDS),
        }
        try:
            self._connection.post(
                self._subject, msgspec.json.encode(request), reply=f"{self._inbox}.{self._generation}"
            )
        except ServerUnavailable:
            self.outstanding -= batch  # the reconnect asks again

    def _receive(self, subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        self._heard_at = time.monotonic()
        if not reply:
            self._on_status(subject, read_headers(block))
            return
        if self.outstanding > 0:
            self.outstanding -= 1
        self._refused = False
        known = self._subjects.get(subject)
        if known is None:
            known = self._remember(subject)
        self._on_message(Message(known[0], known[1], reply, data, block, self._connection))

    def _remember(self, subject: bytes) -> tuple[str, str]:
        if len(self._subjects) >= MAX_SUBJECTS:
            self._subjects.clear()
        text = subject.decode()
        known = self._subjects[subject] = (text, self._lane_of(text))
        return known

    def _on_status(self, subject: bytes, headers: dict[str, str]) -> None:
        status = headers.get("Status", "503")
        if status == "100":
            self._refused = False
        if status == "100" or subject != f"{self._inbox}.{self._generation}".encode():
            return
        # The request is over. It names what it did not deliver, or else nothing is left of any.
        self.outstanding = max(0, self.outstanding - int(headers.get("Nats-Pending-Messages", self.outstanding)))
        if status in ("404", "408") or "Nats-Pending-Messages" in headers:
            self.request_more()
        else:  # no such consumer, no leader, shutting down: the watchdog asks again in its own time
            self._refused = True
            self._patient_until = self._heard_at + self._heartbeat_s / 4
            reason = _HINT if status == "503" else headers.get("Description", "").strip()
            _log.warning("pull.refused", consumer=self._name, status=status, reason=reason)

    def _on_denied(self, denial: PermissionViolation) -> None:
        """Nothing comes: the watchdog asks again in its own time, for whenever the permission is there."""
        if refusal := self._connection.permissions.error_for(denial, self._subject):
            self._refused = True
            _log.error("pull.refused", consumer=self._name, reason=str(refusal))

    async def _restart(self) -> None:
        self._generation += 1
        self._patient_until = 0.0
        self.outstanding = 0
        self.request_more()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s / 2)
            silent_s = time.monotonic() - self._heard_at
            if self.outstanding and silent_s > 2.2 * self._heartbeat_s and self._connection.is_connected:
                _log.warning("pull.silent", consumer=self._name, silent_s=round(silent_s, 1))
                await self._restart()
            else:
                self.request_more()


async def fetch(connection: NatsConnection, *, stream: str, consumer: str, batch: int) -> list[Message]:
    """At most `batch` messages that are there right now. Raises `NotAllowed`, or `ServerUnavailable` without the consumer."""
    messages: list[Message] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    inbox = connection.new_inbox()

    def receive(subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
        if not reply:
            status = read_headers(block).get("Status", "503")
        else:
            text = subject.decode()
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
        with contextlib.suppress(Exception):  # the client library, when the connection is going
            await subscription.unsubscribe()
    if status == "503" and not messages:
        raise ServerUnavailable(f"{stream}/{consumer} gave no answer")
    return messages
