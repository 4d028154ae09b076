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


async def scan_since(
    connection: NatsConnection, stream: str, subject: str, since: datetime
) -> AsyncGenerator[StoredMessage]:
    """Yield what is stored on `subject` since a time, oldest first, as the leader has it when this is called.

    Nothing but one request to the leader when nothing was stored since. Raises `JetStreamError`.
    """
    last = await get_last(connection, stream, subject)
    if last is None or last.stored_at < since:
        return
    reached = 0
    async for record in direct_get.scan(connection, stream, subject, since=since):
        if record.sequence > last.sequence:
            return
        reached = record.sequence
        yield record
    for _ in range(MAX_MISSING):
        if reached >= last.sequence:
            return
        start: dict[str, Any] = {"seq": reached + 1} if reached else {"start_time": since}
        missing = await _get(connection, stream, {"next_by_subj": subject, **start})
        if missing is None or missing.sequence > last.sequence:  # the newest one was removed meanwhile
            return
        reached = missing.sequence
        yield missing
    raise ServerUnavailable(f"a replica of {stream} lags behind its leader; the read is tried again")


async def _get(connection: NatsConnection, stream: str, request: dict[str, Any]) -> StoredMessage | None:
    with contextlib.suppress(NoSuchMessage):
        reply = await connection.api(f"STREAM.MSG.GET.{stream}", request)
        found = msgspec.convert(reply["message"], _Message)
        return StoredMessage(found.subject, found.seq, found.time, found.data, read_headers(found.hdrs))
    return None
