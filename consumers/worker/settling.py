"""Settling: what a handler returned is stored, and then its message is acknowledged or requeued.

A publish that fails is repeated, because the next try may succeed. A publish that the server refuses for good is not:
the message goes to the quarantine instead, or is terminated if the quarantine is refused, too. When the server knows a
message of this attempt already, or a newer one, the owner looks at what is stored, and says what is left to store. A
message that cannot be settled for long is returned to its stream, so that it takes up no room in this process. Its
result is recorded by then, so the next consumer sends nothing.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from consumers.worker.disposition import Disposition, Requeue, quarantine_publication
from consumers.worker.fair_scheduler import DestinationLane
from messaging.client.errors import JetStreamError, WriteConflict, is_refused_for_good
from messaging.message import Message
from messaging.publication import MessagePublisher, Publication, PublishAck
from schemas.codes import Code
from schemas.configuration import MAX_TIMEOUT_S
from schemas.headers import HEADER_SCHEDULE

MAX_PUBLISH_RETRY_S: Final = 5.0
MAX_RETURN_S: Final = 3600.0
"""Longest delay of such a message's redelivery. The delay doubles with each delivery."""

_DROPPED: Final = ("its headers", "its headers and its body")
STALL_S: Final = 2 * MAX_TIMEOUT_S
"""Time without a settled message after which a worker that handles messages makes no progress."""

_log = structlog.get_logger(__name__)


class Settler(Protocol):
    """The owner of messages that are being settled."""

    publisher: MessagePublisher
    settle_patience_s: float
    """Time after which a message whose publications still fail is returned to its stream."""

    def retry_later(self, retry: Callable[[], None], delay_s: float) -> None:
        """Call `retry` after `delay_s`, unless a drain has ended by then."""
        ...

    def on_settled(self, message: Message, *, is_acknowledged: bool) -> None:
        """Forget a message whose publications are stored."""
        ...

    def on_expired(self, message: Message) -> None:
        """Forget a message that another process may have."""
        ...

    def on_unsettled(self, message: Message, delay_s: float) -> None:
        """Return a message to its stream whose publications are not stored."""
        ...

    def settle_again(self, work: "InFlightMessage") -> bool:
        """Find what is left to store of `work.first`, and settle it later. Returns False to accept what is stored."""
        ...

    def on_quarantined(self) -> None:
        """Count a message that is in the quarantine because its consequence cannot be stored."""
        ...

    def on_terminated(self) -> None:
        """Count a message that not even the quarantine can keep."""
        ...


class Settlements(Protocol):
    """The settled messages of a worker, and those that it has to settle."""

    @property
    def settlements(self) -> int:
        """Messages that were settled so far."""
        ...

    @property
    def is_settling(self) -> bool:
        """True while a message is handled, or waits for another try to store its result."""
        ...


class SettlementProgress:
    """The progress of a worker: whether it settles some of the messages that it handles. Ask every few seconds."""

    def __init__(self, worker: Settlements, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._settlements = 0
        self._progress_at = clock()

    def is_made(self) -> bool:
        """Return false after `STALL_S` with messages in hand, of which none was settled."""
        worker, now = self._worker, self._clock()
        if worker.settlements != self._settlements or not worker.is_settling:
            self._settlements, self._progress_at = worker.settlements, now
        return now - self._progress_at < STALL_S


class InFlightMessage:
    """A message that is being handled, and then settled.

    Its publications are stored one after the other, each from the callback of the one before. Then it is acknowledged
    or requeued.
    """

    __slots__ = (
        "_failing_since",
        "_is_recorded",
        "_publications",
        "_refusals",
        "_requeue",
        "_retry_s",
        "_stored",
        "_worker",
        "first",
        "is_known",
        "lane",
        "looks",
        "message",
        "slot",
    )

    def __init__(self, worker: Settler, lane: DestinationLane, message: Message) -> None:
        self._worker = worker
        self.lane = lane
        self.slot = -1
        """Of the journal of handled messages."""
        self.message = message
        self.first: tuple[Publication, ...] | None = None
        """The publications of the handler."""
        self.is_known = False
        """The server knows the id of one of them."""
        self.looks = 0
        """How often what is stored was looked at since."""
        self._publications: tuple[Publication, ...] = ()
        self._requeue: Requeue | None = None
        self._is_recorded = False
        self._stored = self._refusals = 0
        self._failing_since = 0.0
        self._retry_s = 0.1

    def settle(self, disposition: Disposition) -> None:
        """Store the publications of `disposition`, then acknowledge or requeue."""
        self._requeue = disposition if isinstance(disposition, Requeue) else None
        self._publications = disposition.publications if isinstance(disposition, Requeue) else disposition
        self._stored = 0
        if self.first is None:
            self.first = self._publications
        self._store_next()

    def _store_next(self) -> None:
        if self._stored < len(self._publications):
            publication = self._publications[self._stored]
            if HEADER_SCHEDULE in publication.headers and not self.message.is_held():
                self._worker.on_expired(self.message)  # who has the message now decides what follows
            else:
                self._worker.publisher.send(publication, self._on_stored)
            return
        if self._requeue is not None:
            self.message.nak(self._requeue.delay_s)
        else:
            self.message.ack()
        self._worker.on_settled(self.message, is_acknowledged=self._requeue is None)

    def _on_stored(self, result: PublishAck | JetStreamError) -> None:
        if isinstance(result, PublishAck):
            if result.duplicate and not self._refusals:
                self.is_known = True
                if self._worker.settle_again(self):
                    return
            self._stored += 1
            if self._refusals:
                self._worker.on_quarantined()
            self._is_recorded = True
            self._store_next()
        elif isinstance(result, WriteConflict) and self._worker.settle_again(self):
            return
        elif is_refused_for_good(result):
            self._on_refused(result)
        else:
            self._on_failed(result)

    def _on_failed(self, error: JetStreamError) -> None:
        """Try again, or return the message if a redelivery is sure to send nothing a second time."""
        now, subject = time.monotonic(), self._publications[self._stored].subject
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._worker.settle_patience_s and self._is_recorded:
            self._return(error)
            return
        _log.warning("publish.failed", subject=subject, error=str(error), next_try_s=self._retry_s)
        self._worker.retry_later(self._store_again, self._retry_s)
        self._retry_s = min(self._retry_s * 2, MAX_PUBLISH_RETRY_S)

    def _store_again(self) -> None:
        """Publish again. A schedule may have been stored, and have fired since, so what is stored is looked at."""
        is_schedule = HEADER_SCHEDULE in self._publications[self._stored].headers
        if not (is_schedule and self._worker.settle_again(self)):
            self._store_next()

    def _on_refused(self, error: JetStreamError) -> None:
        """Quarantine the message without its headers, and if that is refused without its body: then keep its place.

        A message whose result is stored is returned instead, as a redelivery sends nothing. Any other one must not be
        delivered again: its request would be sent again each time.
        """
        self._refusals += 1
        _log.error("publish.refused", subject=self._publications[self._stored].subject, error=str(error))
        if self._refusals > 1 and self._is_recorded:
            self._return(error)
        elif self._refusals > len(_DROPPED):
            self._terminate(error)
        else:
            dropped = _DROPPED[self._refusals - 1]
            reason = f"what follows from this message cannot be stored: {error}; {dropped} are dropped"
            message, keep_body = self.message, self._refusals == 1
            self._requeue, self._stored = None, 0
            self._publications = (
                quarantine_publication(message, Code.INTERNAL, reason, keep_headers=False, keep_body=keep_body),
            )
            self._store_next()

    def _terminate(self, error: JetStreamError) -> None:
        message = self.message
        _log.error("message.terminated", subject=message.subject, message=message.identity, error=str(error))
        message.terminate("nothing that follows from it can be stored")
        self._worker.on_terminated()
        self._worker.on_settled(message, is_acknowledged=True)

    def _return(self, error: JetStreamError) -> None:
        delay_s = min(self._worker.settle_patience_s * 2.0 ** min(self.message.deliveries, 10), MAX_RETURN_S)
        subject = self._publications[self._stored].subject
        _log.error("message.unsettled", subject=subject, error=str(error), next_try_s=delay_s)
        self._worker.on_unsettled(self.message, delay_s)
