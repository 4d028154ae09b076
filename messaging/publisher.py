"""Publishing with acknowledgements by callback.

One inbox receives all acknowledgements. The last token of the subject is the number of the message, which leads to its
callback. A message needs no task and no future.
"""

import asyncio
import collections
import contextlib
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import msgspec

from messaging.atomic_batch import AtomicBatcher
from messaging.client.connection import NatsConnection
from messaging.client.errors import (
    BATCHES_OFF,
    ROLLUP_REFUSED,
    SUBJECT_FULL,
    JetStreamError,
    RejectedByServer,
    ServerUnavailable,
    WriteConflict,
    error_of,
)
from messaging.client.permission_violations import PermissionViolation
from messaging.management import delete_message
from messaging.publication import OnStored, Publication, PublishAck, publish
from schemas.headers import HEADER_MSG_ID

PUBLISH_TIMEOUT_S: Final = 5.0
SWEEPS: Final = 8
"""Checks for overdue acknowledgements within that time."""
LAST_LOOK_S: Final = 0.01
"""Time for reading before a check."""
BATCH_STEP_BYTES: Final = 256 * 1024
"""Bytes of a batch after which it waits for the server, so that messages of others come in between."""
_BATCH: Final = "Nats-Batch-"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_OF_STREAM: Final = "Nats-Expected-Last-Sequence"
_NEVER: Final = str(2**62)
"""A sequence that no message has, so that a message which expects it is never stored."""
_REFUSED: Final = {"Nats-Rollup": "never"}
"""A rollup that does not exist. The server refuses it after the check of its id: what is known is a duplicate."""


class _AckError(msgspec.Struct, gc=False):
    err_code: int = 0
    description: str = ""


class _AckReply(PublishAck, frozen=True, gc=False):
    stream: str = ""
    seq: int = 0
    error: _AckError | None = None


_decode = msgspec.json.Decoder(_AckReply).decode


class JetStreamPublisher:
    """Publishes messages and reports each acknowledgement. Use as an asynchronous context manager."""

    def __init__(self, connection: NatsConnection, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._inbox = connection.new_inbox()
        self._token_at = len(self._inbox) + 1
        self._sent = 0
        self.failures: collections.Counter[str] = collections.Counter()
        """Messages that were not stored, by reason: `subject_full`, `refused` or `unavailable`."""
        self._waiting: dict[int, tuple[str, OnStored]] = {}
        """Subject and callback of each unacknowledged message by its number, oldest first."""
        self._batches: dict[str, AtomicBatcher] = {}
        self.exceeds_share: Callable[[str, int], bool] = lambda _tenant, _count: False
        """Returns whether delivery requests of a tenant belong into the overflow: see `WorkShare`."""

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.listen(self._inbox + ".*", self._on_ack)
        self._sweeper = asyncio.create_task(self._sweep(), name="publisher-sweep")
        self._connection.permissions.on_violation(self._on_violation)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        with contextlib.suppress(Exception):  # the connection may be closed already
            await self._subscription.unsubscribe()

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send a message, and call `on_stored` once, with the acknowledgement or the error."""
        connection = self._connection
        if connection.permissions.ack_subscription_error is not None:
            self._fail(on_stored, connection.permissions.ack_subscription_error)
            return
        self._sent = number = self._sent + 1
        self._waiting[number] = (publication.subject, on_stored)
        try:
            connection.post(
                publication.subject,
                publication.payload,
                reply=f"{self._inbox}.{number}",
                headers=publication.headers,
                block=publication.block,
            )
        except (ServerUnavailable, RejectedByServer) as error:
            if self._waiting.pop(number, None):
                self._fail(on_stored, error)

    async def expire(self) -> None:
        """Report what is not acknowledged as failed: after a reconnect, it may be lost with the old connection.

        A sender that repeats it with its id then does so at once, and not after the time-out.
        """
        for number in list(self._waiting):
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                self._fail(waiting[1], ServerUnavailable("the connection was lost before JetStream acknowledged"))

    async def publish(self, publication: Publication) -> PublishAck:
        """Send a message and wait until it is stored. Raises `RejectedByServer` or `ServerUnavailable`."""
        return await publish(self, publication)

    async def publish_all(self, publications: Sequence[Publication]) -> PublishAck:
        """Store all messages or none, as an atomic batch (ADR-50).

        The messages belong to one stream and get consecutive sequences. The server acknowledges the last one only.

        Args:
            publications: At most `atomic_batch.MAX_MESSAGES`.

        Returns:
            The acknowledgement of the last message.

        Raises:
            RejectedByServer: For example because one `Nats-Msg-Id` is stored already.
            ServerUnavailable: No acknowledgement arrived.
        """
        batch = uuid.uuid4().hex
        *first, last = [
            msgspec.structs.replace(
                one, headers={**one.headers, f"{_BATCH}Id": batch, f"{_BATCH}Sequence": str(number)}
            )
            for number, one in enumerate(publications, 1)
        ]
        last = msgspec.structs.replace(last, headers={**last.headers, f"{_BATCH}Commit": "1"})
        unread = 0
        for one in first:
            await self._connection.publish(one.subject, one.payload, headers=one.headers)
            unread += len(one.payload)
            if unread >= BATCH_STEP_BYTES:
                unread = 0
                await self._connection.flush()
        try:
            return await self.publish(last)
        except RejectedByServer as error:
            if error.err_code != BATCHES_OFF:
                raise
        raise ServerUnavailable("a stream does not allow atomic batches; run `oneprotect apply`")

    def batches(self, stream: str) -> AtomicBatcher:
        """Return the batcher of a stream, which combines the batches of several callers."""
        return self._batches.setdefault(stream, AtomicBatcher(self))

    async def last_sequence(self, subject: str, *, of_stream: bool = False) -> int | None:
        """Return the sequence of the newest message on `subject`, as the stream's leader knows it. 0: there is none.

        Publishes what the server must reject. Unlike a management request, that waits behind no other request.

        Args:
            of_stream: Return the last sequence of the stream, which its messages on all subjects have had.

        Returns:
            None while a message of the subject is on its way to the replicas.

        Raises:
            RejectedByServer, ServerUnavailable: The sequence is unknown.
        """
        try:
            await self.publish(Publication(subject, b"", {_EXPECTED_OF_STREAM if of_stream else _EXPECTED: _NEVER}))
        except WriteConflict as error:
            newest = error.description.rpartition(": ")[2]
            return int(newest) if newest.isdecimal() else None
        raise ServerUnavailable("the server stored a message that it had to reject")

    async def find_known(self, subject: str, message_id: str) -> PublishAck | None:
        """Return the acknowledgement of the message that the subject's stream knows under an id, or None.

        Publishes what the server must reject, otherwise. Raises `RejectedByServer` or `ServerUnavailable`.
        """
        try:
            return await self.publish(Publication(subject, b"", {HEADER_MSG_ID: message_id, **_REFUSED}))
        except RejectedByServer as error:
            if error.err_code != ROLLUP_REFUSED:
                raise
        return None

    async def remove(self, stream: str, sequence: int) -> None:
        """Delete a message of a stream, unless it is gone. Raises `JetStreamError`."""
        await delete_message(self._connection, stream, sequence)

    async def put(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> PublishAck:
        """Publish a payload with optional headers."""
        return await self.publish(Publication(subject, payload, dict(headers or {})))

    def _on_ack(self, subject: bytes, _reply: bytes, data: bytes, _block: bytes) -> None:
        waiting = self._waiting.pop(int(subject[self._token_at :]), None)
        if waiting is None:
            return
        result = _result(data)
        if isinstance(result, JetStreamError):
            self._fail(waiting[1], result)
        else:
            waiting[1](result)

    def _on_violation(self, violation: PermissionViolation) -> None:
        for number, (subject, on_stored) in tuple(self._waiting.items()):
            if error := self._connection.permissions.error_for(violation, subject):
                del self._waiting[number]
                self._fail(on_stored, error)

    def _fail(self, on_stored: OnStored, error: JetStreamError) -> None:
        code = error.err_code if isinstance(error, RejectedByServer) else 0
        if not isinstance(error, WriteConflict) and code != ROLLUP_REFUSED:  # its publisher expects it
            self.failures["subject_full" if code == SUBJECT_FULL else "refused" if code else "unavailable"] += 1
        on_stored(error)

    async def _sweep(self) -> None:
        """Report messages without an acknowledgement as failed."""
        sent: collections.deque[int] = collections.deque([0] * SWEEPS, maxlen=SWEEPS)
        while True:
            await asyncio.sleep(self._timeout_s / SWEEPS)
            overdue = sent[0]
            sent.append(self._sent)
            # After a pause of the process, timers fire before the loop reads: acknowledgements may be in the socket.
            await asyncio.sleep(LAST_LOOK_S)
            for number in list(itertools.takewhile(overdue.__ge__, self._waiting)):
                _, on_stored = self._waiting.pop(number)
                self._fail(on_stored, ServerUnavailable(f"JetStream did not acknowledge within {self._timeout_s:g} s"))


def _result(data: bytes) -> PublishAck | JetStreamError:
    if not data:
        return ServerUnavailable("no stream stores this subject, or JetStream has no leader; run `oneprotect apply`")
    answer = _decode(data)
    if answer.error is None:
        return answer
    return error_of(answer.error.err_code, answer.error.description)
