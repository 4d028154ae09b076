"""Reads that decide something: what the leader of a stream has, whatever a replica that lags would answer.

A direct get is answered by any replica. So a range is read by direct gets and then compared with the leader's newest
message on the subject; a replica has stored everything before a message that it has stored. What is missing is read
from the leader, one message at a time.
"""

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import msgspec

from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.client.errors import NoSuchMessage, ServerUnavailable
from messaging.client.headers import read_headers
from messaging.direct_get import StoredMessage

MAX_MISSING: Final = 256
"""Messages that are read from the leader because a replica lags. With more, the caller tries again later."""


class _Message(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: datetime
    data: bytes = b""
    hdrs: bytes = b""


async def get_last(connection: NatsConnection, stream: str, subject: str) -> StoredMessage | None:
    """Return the newest message on `subject`, which may have wildcards, or None. Raises `JetStreamError`."""
    return await _get(connection, stream, {"last_by_subj": subject})


async def get(connection: NatsConnection, stream: str, sequence: int) -> StoredMessage | None:
    """Return the message with this sequence, or None. Raises `JetStreamError`."""
    return await _get(connection, stream, {"seq": sequence})


async def scan(
    connection: NatsConnection,
    stream: str,
    subject: str,
    last_sequence: int,
    *,
    since: datetime | None = None,
    first_sequence: int = 1,
    batch: int = direct_get.BATCH,
) -> AsyncGenerator[StoredMessage]:
    """Yield what the leader has on `subject` from a time or a sequence on, oldest first, up to a sequence.

    `last_sequence`: that of a message which the leader has returned, or one before it. Raises `JetStreamError`.
    """
    reached = 0
    start: dict[str, Any] = {"start_time": since} if since else {"seq": first_sequence}
    read = direct_get.scan(connection, stream, subject, first_sequence=first_sequence, since=since, batch=batch)
    async for record in read:
        if record.sequence > last_sequence:
            return
        reached, start = record.sequence, {"seq": record.sequence + 1}
        yield record
    for _ in range(MAX_MISSING):
        if reached >= last_sequence:
            return
        missing = await _get(connection, stream, {"next_by_subj": subject, **start})
        if missing is None or missing.sequence > last_sequence:  # the newest one was removed meanwhile
            return
        reached, start = missing.sequence, {"seq": missing.sequence + 1}
        yield missing
    raise ServerUnavailable(f"a replica of {stream} lags behind its leader; the read is tried again")


async def _get(connection: NatsConnection, stream: str, request: dict[str, Any]) -> StoredMessage | None:
    with contextlib.suppress(NoSuchMessage):
        reply = await connection.api(f"STREAM.MSG.GET.{stream}", request)
        found = msgspec.convert(reply["message"], _Message)
        return StoredMessage(found.subject, found.seq, found.time, found.data, read_headers(found.hdrs))
    return None
