"""Publishing with acknowledgement: thousands in flight, one subscription, and no coroutine waiting for any of them.

The client library's own `publish` makes a task and a future for each message. Here one inbox receives all
acknowledgements, the last token of its subject says which message is meant, and a callback goes on from there.
"""

import asyncio
import collections
import contextlib
import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec

from messaging.atomic_batch import AtomicBatcher
from messaging.client.connection import NatsConnection
from messaging.client.errors import (
    BATCHES_OFF,
    SUBJECT_FULL,
    JetStreamError,
    RejectedByServer,
    ServerUnavailable,
    error_of,
)
from messaging.client.permission_violations import PermissionViolation
from messaging.management import delete_message
from messaging.publication import OnStored, Publication, PublishAck, publish

PUBLISH_TIMEOUT_S: Final = 5.0
SWEEPS: Final = 8
"""So often in that time it is looked who has waited too long."""
_BATCH: Final = "Nats-Batch-"


class _AckError(msgspec.Struct, gc=False):
    err_code: int = 0
    description: str = ""


class _AckReply(PublishAck, frozen=True, gc=False):
    stream: str = ""
    seq: int = 0
    error: _AckError | None = None


_decode = msgspec.json.Decoder(_AckReply).decode


class JetStreamPublisher:
    """Publishes and hears of each message whether it was stored. Use as an asynchronous context manager."""

    def __init__(self, connection: NatsConnection, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._inbox = connection.new_inbox()
        self._token_at = len(self._inbox) + 1
        self._sent = 0
        self.failures: collections.Counter[str] = collections.Counter()
        """Messages that were not stored, by the reason: `subject_full`, `refused` or `unavailable`."""
        self._waiting: dict[int, tuple[str, OnStored]] = {}
        """Who waits, by the number of what was sent, the oldest first; and on which subject that was."""
        self._batches: dict[str, AtomicBatcher] = {}

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.listen(self._inbox + ".*", self._on_ack)
        self._sweeper = asyncio.create_task(self._sweep(), name="publisher-sweep")
        self._connection.denials.call(self._on_denied)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        with contextlib.suppress(Exception):  # closing: the connection may be gone already
            await self._subscription.unsubscribe()

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send, and call `on_stored` once: with what was stored, or with why it was not (or not known to be)."""
        connection = self._connection
        if connection.denials.ack_subscription_error is not None:
            self._fail(on_stored, connection.denials.ack_subscription_error)
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

    async def publish(self, publication: Publication) -> PublishAck:
        """Send a message and wait until it is stored. Raises `RejectedByServer` or `ServerUnavailable`."""
        return await publish(self, publication)

    async def publish_all(self, publications: Sequence[Publication]) -> PublishAck:
        """Store all of them or none: one stream, at most `MAX_MESSAGES`. They get consecutive sequences; the last's.

        An atomic batch (ADR-50): only its last message is acknowledged, and a server that does not get that far forgets
        the others. Raises `RejectedByServer` or `ServerUnavailable`; one `Nats-Msg-Id` that is stored already refuses the whole batch.
        """
        batch = uuid.uuid4().hex
        *first, last = [
            msgspec.structs.replace(
                one, headers={**one.headers, f"{_BATCH}Id": batch, f"{_BATCH}Sequence": str(number)}
            )
            for number, one in enumerate(publications, 1)
        ]
        last = msgspec.structs.replace(last, headers={**last.headers, f"{_BATCH}Commit": "1"})
        for one in first:
            await self._connection.publish(one.subject, one.payload, headers=one.headers)
        try:
            return await self.publish(last)
        except RejectedByServer as error:
            if error.err_code != BATCHES_OFF:
                raise
        raise ServerUnavailable("a stream takes no batches yet: run `oneprotect apply`")

    def batches(self, stream: str) -> AtomicBatcher:
        """For whoever wants batches stored in `stream`: those of several callers go together."""
        return self._batches.setdefault(stream, AtomicBatcher(self))

    async def remove(self, stream: str, sequence: int) -> None:
        """Take a message out of a stream. Raises `RejectedByServer` when it is not there, or `ServerUnavailable`."""
        await delete_message(self._connection, stream, sequence)

    async def put(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> PublishAck:
        """`publish` for what is no event."""
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

    def _on_denied(self, denial: PermissionViolation) -> None:
        for number, (subject, on_stored) in tuple(self._waiting.items()):
            if refusal := self._connection.denials.refusal(denial, subject):
                del self._waiting[number]
                self._fail(on_stored, refusal)

    def _fail(self, on_stored: OnStored, error: JetStreamError) -> None:
        is_full = isinstance(error, RejectedByServer) and error.err_code == SUBJECT_FULL
        self.failures[
            "subject_full" if is_full else "refused" if isinstance(error, RejectedByServer) else "unavailable"
        ] += 1
        on_stored(error)

    async def _sweep(self) -> None:
        """Give up on what has waited too long: what had been sent, by its number, when that time began."""
        sent: collections.deque[int] = collections.deque([0] * SWEEPS, maxlen=SWEEPS)
        while True:
            await asyncio.sleep(self._timeout_s / SWEEPS)
            overdue = sent[0]
            sent.append(self._sent)
            for number in list(itertools.takewhile(overdue.__ge__, self._waiting)):
                _, on_stored = self._waiting.pop(number)
                self._fail(on_stored, ServerUnavailable(f"JetStream did not acknowledge within {self._timeout_s:g} s"))


def _result(data: bytes) -> PublishAck | JetStreamError:
    if not data:
        return ServerUnavailable("no stream takes this subject, or JetStream has no leader: run `oneprotect apply`")
    answer = _decode(data)
    if answer.error is None:
        return answer
    return error_of(answer.error.err_code, answer.error.description)
