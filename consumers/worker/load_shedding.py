"""Load shedding: the surplus of a tenant moves to the overflow, so that the worker never has to stop pulling.

The streams of due work are queues for all tenants. A worker that stopped pulling when one tenant has filled its share
would leave the others behind that tenant's backlog. The overflow is read by turns of tenants and destinations.

The copy is stored before the message is acknowledged. If the acknowledgement is lost, both remain. So the copy names
its original and waits while that is there, and it asks for a look at the results before it is sent. A copy is not moved
again: the feeder, which bounds the copies that are due, has brought it back.
"""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final

from messaging.client.errors import JetStreamError
from messaging.direct_get import StoredMessage
from messaging.message import Message
from messaging.publication import MessagePublisher, Publication, PublishAck
from schemas import streams, subjects
from schemas.headers import (
    HEADER_MSG_ID,
    HEADER_ORIGINAL,
    HEADER_SINCE,
    is_portable,
    late_claim_header,
    portable_headers,
)

MAX_MOVING: Final = 512
"""Messages of a stream that are moved at a time. The worker pulls none of that stream while there are as many."""
_SOURCES: Final = frozenset({streams.WORK.name, streams.RETRIES.name})
_MOVED: Final = ".o"
_ORIGINAL: Final = HEADER_ORIGINAL.encode()


class LoadShedder:
    """Moves messages to the overflow."""

    def __init__(self, publisher: MessagePublisher, is_unordered: Callable[[str], bool]) -> None:
        """`is_unordered`: whether the destination `<tenant>.<id>` is known, and its order does not matter."""
        self._publisher = publisher
        self._is_unordered = is_unordered
        self.moving = 0
        """Messages that are being moved."""
        self.moving_of: Counter[str] = Counter()
        """Those of each stream."""
        self.moved = 0
        """Messages moved so far."""

    def can_move(self, message: Message) -> bool:
        """Return whether the overflow may have the message: a copy is newer, so it would come behind later ones."""
        is_original = message.stream in _SOURCES and _ORIGINAL not in message.header_block
        return is_original and self._is_unordered(message.lane)

    def move(self, message: Message, on_moved: Callable[[JetStreamError | None], None]) -> None:
        """Store a copy in the overflow, and call `on_moved` once, with the error if there is one."""

        def on_stored(result: PublishAck | JetStreamError) -> None:
            self.moving -= 1
            self.moving_of[message.stream] -= 1
            if isinstance(result, PublishAck):
                self.moved += 1
                on_moved(None)
            else:
                on_moved(result)

        self.moving += 1
        self.moving_of[message.stream] += 1
        self._publisher.send(overflow_copy(message), on_stored)


def overflow_copy(message: Message) -> Publication:
    """Return the copy of a message for the overflow.

    The copy's `Nats-Msg-Id` ends with the sequence of the message. The work stream still knows the id without that end,
    and would drop the copy as a duplicate when it is fed back.
    """
    return _copy(message.stream, message.sequence, message.subject, message.data, message.headers, message.stored_at)


def overflow_copy_of(stream: str, record: StoredMessage) -> Publication:
    """Return the copy of a message of `stream` for the overflow."""
    return _copy(stream, record.sequence, record.subject, record.data, record.headers, record.stored_at)


def _copy(
    stream: str, sequence: int, subject: str, data: bytes, headers: dict[str, str], stored_at: datetime
) -> Publication:
    sent = headers.get(HEADER_MSG_ID, "")
    request_id = sent if is_portable(sent) else f"{stream}.{sequence}"
    before, _, end = request_id.rpartition(_MOVED)
    if before and end.isdigit():  # moved before
        request_id = before
    kept = portable_headers(headers) | {HEADER_MSG_ID: f"{request_id}{_MOVED}{sequence}"}
    kept |= late_claim_header(headers, stored_at)
    kept[HEADER_ORIGINAL] = f"{stream}.{sequence}"
    kept.setdefault(HEADER_SINCE, stored_at.isoformat())
    return Publication(subjects.overflow(*subjects.tenant_and_destination(subject)), data, kept)
