"""Moves of messages to another stream: each is published there first, and then deleted by its sequence.

A crash in between leaves two copies, under one `Nats-Msg-Id`. Another message may have that id, too: what the server
calls a duplicate has been moved only if the message that it knows is the same. No purge removes what was moved: the
server would forget pending messages of others.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from consumers.attempts import leader_reads
from consumers.delivery.named_ids import is_unmarked
from consumers.worker.disposition import quarantine_record
from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import RejectedByServer, is_refused_for_good
from messaging.direct_get import StoredMessage
from messaging.lease import Lease, LeaseLost
from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from schemas import streams
from schemas.events import decode_request
from schemas.headers import (
    HEADER_MSG_ID,
    HEADER_ORIGINAL,
    HEADER_SINCE,
    is_portable,
    late_claim_header,
    portable_headers,
)

_WINDOW: Final = timedelta(seconds=streams.WORK.duplicate_window_s)
MAX_MOVED: Final = 4096
"""Moved messages that are recognized when they are read again, before their removal has reached the replica."""


class MessageTransfer:
    """Messages that the holder of `lease` moves to a subject: each is published once."""

    def __init__(self, connection: NatsConnection, publisher: JetStreamPublisher, lease: Lease, target: str) -> None:
        self._connection = connection
        self._publisher = publisher
        self._lease = lease
        self._target = target
        self._moved: OrderedDict[tuple[str, int], datetime] = OrderedDict()
        """Stored times of moved messages by stream and sequence: a recreated stream counts from 1 again."""

    def is_moved(self, stream: str, record: StoredMessage) -> bool:
        """Return whether a message has been moved."""
        return self._moved.get((stream, record.sequence)) == record.stored_at

    def note_moved(self, stream: str, record: StoredMessage) -> None:
        """Count a message as moved: the target has it."""
        self._moved[stream, record.sequence] = record.stored_at
        if len(self._moved) > MAX_MOVED:
            self._moved.popitem(last=False)

    async def publish(self, stream: str, record: StoredMessage, *, is_doubtful: bool = True) -> None:
        """Publish a message at the target, unless that is done. With `is_doubtful` it may have been sent before.

        Raises `JetStreamError`, `LeaseLost` among them.
        """
        if self.is_moved(stream, record):
            return
        if not self._lease.is_held:
            raise LeaseLost
        try:
            stored = await self._publisher.publish(moved_copy(stream, record, self._target, is_doubtful=is_doubtful))
            if stored.duplicate and not await self._is_copy(stored, record):
                await self._publisher.publish(second_copy(stream, record, self._target))
        except RejectedByServer as error:
            if not is_refused_for_good(error):
                raise
            await self._publisher.publish(quarantine_record(record, stream, error))
        self.note_moved(stream, record)

    async def _is_copy(self, stored: PublishAck, record: StoredMessage) -> bool:
        """Return whether the server still has `record` at the target. A message that is gone may have been another."""
        found = await leader_reads.get(self._connection, stored.stream, stored.seq)
        return found is not None and found.data == record.data

    async def delete(self, places: Iterable[tuple[str, int]]) -> None:
        """Delete messages by stream and sequence. Raises `JetStreamError`; then it is safe to call again."""
        await asyncio.gather(*(management.delete_message(self._connection, *place) for place in places))


def moved_copy(stream: str, record: StoredMessage, target: str, *, is_doubtful: bool) -> Publication:
    """Return the copy of a message of `stream` for another. One that is doubtful asks for a look at the results.

    A copy of due work names its original, and waits while that is there.
    """
    since = {HEADER_SINCE: record.headers.get(HEADER_SINCE) or record.stored_at.isoformat()} if is_doubtful else {}
    claim = late_claim_header(record.headers, record.stored_at)
    headers = portable_headers(record.headers) | claim | since | {HEADER_MSG_ID: message_id(stream, record)}
    if stream == streams.WORK.name:
        headers.setdefault(HEADER_ORIGINAL, f"{stream}.{record.sequence}")
    return Publication(target, record.data, headers)


def second_copy(stream: str, record: StoredMessage, target: str) -> Publication:
    """Return the doubtful copy of a message whose id the target knows; the id of this copy is made from its place.

    An API of an earlier version stores repeats in the overflow, and relies on the target's memory of their ids.
    """
    copy = moved_copy(stream, record, target, is_doubtful=True)
    own = {HEADER_MSG_ID: f"{stream}.{record.sequence}"}
    with contextlib.suppress(ValueError):
        if is_unmarked(decode_request(record.data), record.headers):
            own[HEADER_SINCE] = (record.stored_at - _WINDOW).isoformat()
    return msgspec.structs.replace(copy, headers=copy.headers | own)


def message_id(stream: str, record: StoredMessage) -> str:
    """Return the `Nats-Msg-Id` of `record`, or one made from its place when it has none that a copy may have."""
    sent = record.headers.get(HEADER_MSG_ID, "")
    return sent if is_portable(sent) else f"{stream}.{record.sequence}"
