"""Publishing with acknowledgement: thousands in flight, one subscription, and no coroutine waiting for any of them.

The client library's own `publish` makes a task and a future for each message. Here one inbox receives all
acknowledgements, the last token of its subject says which message is meant, and a callback goes on from there.
"""

import asyncio
import collections
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec

from oneprotect.jetstream.connection import Connection, Incoming
from oneprotect.jetstream.denials import Denial
from oneprotect.jetstream.errors import BATCHES_OFF, SUBJECT_FULL, JetStreamError, Refused, Unavailable, error_of

if TYPE_CHECKING:
    from oneprotect.jetstream.batches import Batches

PUBLISH_TIMEOUT_S: Final = 5.0
_BATCH: Final = "Nats-Batch-"


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A message to store: subject, payload, headers. With `Nats-Msg-Id` among them it may be sent again safely."""

    subject: str
    payload: bytes
    headers: dict[str, str]


class Stored(msgspec.Struct, frozen=True, gc=False):
    """JetStream's word that a message is stored; `duplicate` when it had been already."""

    stream: str
    seq: int
    duplicate: bool = False


class _Error(msgspec.Struct, gc=False):
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, gc=False):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


def without_batch(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a stored message, fit for publishing it again: those of the batch that it came in stay with it."""
    return {name: value for name, value in headers.items() if not name.startswith(_BATCH)}


OnStored = Callable[[Stored | JetStreamError], Awaitable[None]]


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    subject: str
    on_stored: OnStored


class Sends(Protocol):
    """Sends a message and says later what became of it, as `Publisher` does."""

    async def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send, and call `on_stored` once."""
        ...


_decode = msgspec.json.Decoder(_PubAck).decode


class Publisher:
    """Publishes and hears of each message whether it was stored. Use as an asynchronous context manager."""

    def __init__(self, connection: Connection, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._inbox = connection.new_inbox()
        self._counter = 0
        self.failures: collections.Counter[str] = collections.Counter()
        """Messages that were not stored, by the reason: `subject_full`, `refused` or `unavailable`."""
        self._waiting: dict[str, _Waiting] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._batches: dict[str, Batches] = {}
        # All wait equally long, so the oldest is always the first to be overdue: no timer for each.
        self._deadlines: collections.deque[tuple[float, str]] = collections.deque()

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(self._inbox + ".*", self._on_ack)
        self._sweeper = asyncio.create_task(self._sweep(), name="publisher-sweep")
        self._connection.denials.call(self._on_denied)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        with contextlib.suppress(Exception):  # closing: the connection may be gone already
            await self._subscription.unsubscribe()

    async def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send, and call `on_stored` once: with what was stored, or with why it was not (or not known to be)."""
        if deafness := self._connection.denials.standing():
            await self._fail(on_stored, deafness)
            return
        self._counter += 1
        token = str(self._counter)
        self._waiting[token] = _Waiting(publication.subject, on_stored)
        # Not the loop's own time: to ask for the running loop is a system call.
        self._deadlines.append((time.monotonic() + self._timeout_s, token))
        try:
            await self._connection.publish(
                publication.subject,
                publication.payload,
                reply=f"{self._inbox}.{token}",
                headers=publication.headers,
            )
        except (Unavailable, Refused) as error:
            if self._waiting.pop(token, None):
                await self._fail(on_stored, error)

    async def publish(self, publication: Publication) -> Stored:
        """Send and wait until it is stored. Raises `Refused`, `NotAllowed` among them, or `Unavailable`."""
        outcome: asyncio.Future[Stored | JetStreamError] = asyncio.get_running_loop().create_future()

        async def on_stored(result: Stored | JetStreamError) -> None:
            if not outcome.done():
                outcome.set_result(result)

        await self.send(publication, on_stored)
        result = await outcome
        if isinstance(result, JetStreamError):
            raise result
        return result

    async def publish_all(self, publications: Sequence[Publication]) -> Stored:
        """Store all of them or none: one stream, at most `MAX_MESSAGES`. They get consecutive sequences; the last's.

        An atomic batch (ADR-50): only its last message is acknowledged, and a server that does not get that far forgets
        the others. Raises `Refused` or `Unavailable`; one `Nats-Msg-Id` that is stored already refuses the whole batch.
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
        except Refused as error:
            if error.err_code != BATCHES_OFF:
                raise
        raise Unavailable("a stream takes no batches yet: run `oneprotect apply`")

    def batches(self, stream: str) -> "Batches":
        """For whoever wants batches stored in `stream`: those of several callers go together."""
        from oneprotect.jetstream.batches import Batches  # it needs what is defined here

        return self._batches.setdefault(stream, Batches(self))

    async def remove(self, stream: str, sequence: int) -> None:
        """Take a message out of a stream. Raises `Refused` when it is not there, or `Unavailable`."""
        await self._connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})

    async def put(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> Stored:
        """`publish` for what is no event."""
        return await self.publish(Publication(subject, payload, dict(headers or {})))

    async def _on_ack(self, message: Incoming) -> None:
        waiting = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if waiting is None:
            return
        result = _result(message)
        if isinstance(result, Stored):
            await waiting.on_stored(result)
        else:
            await self._fail(waiting.on_stored, result)

    def _on_denied(self, denial: Denial) -> None:
        """Tell those who wait for it, in tasks of their own: what one of them does next may wait for the server."""
        for token, waiting in tuple(self._waiting.items()):
            if refusal := self._connection.denials.refusal(denial, waiting.subject):
                del self._waiting[token]
                telling = asyncio.create_task(self._fail(waiting.on_stored, refusal))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)

    async def _fail(self, on_stored: OnStored, error: JetStreamError) -> None:
        is_full = isinstance(error, Refused) and error.err_code == SUBJECT_FULL
        self.failures["subject_full" if is_full else "refused" if isinstance(error, Refused) else "unavailable"] += 1
        await on_stored(error)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._timeout_s / 8)
            now = time.monotonic()
            while self._deadlines and self._deadlines[0][0] < now:
                waiting = self._waiting.pop(self._deadlines.popleft()[1], None)
                if waiting is not None:
                    error = Unavailable(f"JetStream did not acknowledge within {self._timeout_s:g} s")
                    await self._fail(waiting.on_stored, error)


def _result(message: Incoming) -> Stored | JetStreamError:
    if not message.data:
        return Unavailable("no stream takes this subject, or JetStream has no leader: run `oneprotect apply`")
    ack = _decode(message.data)
    if ack.error is None:
        return Stored(ack.stream, ack.seq, ack.duplicate)
    return error_of(ack.error.err_code, ack.error.description)
