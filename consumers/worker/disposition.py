"""Dispositions of a message: publications to store, and then an acknowledgement or a requeue."""

import msgspec

from messaging.client.errors import JetStreamError
from messaging.direct_get import StoredMessage
from messaging.message import Message
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Code
from schemas.headers import (
    HEADER_CODE,
    HEADER_MSG_ID,
    HEADER_ORIGIN,
    HEADER_REASON,
    HEADER_SINCE,
    as_value,
    is_portable,
    portable_headers,
)


class Requeue(msgspec.Struct, frozen=True):
    """Store `publications`, and return the message to its stream, which delivers it again after `delay_s`."""

    publications: tuple[Publication, ...] = ()
    delay_s: float = 0


Disposition = tuple[Publication, ...] | Requeue
"""Publications to store, in this order, before the message is acknowledged or requeued."""

HandlerResult = Disposition | Exception
"""How a handler ended: with a disposition, or with an unforeseen error."""


def quarantine_publication(
    message: Message, code: Code, reason: str, *, keep_headers: bool = True, keep_body: bool = True
) -> Publication:
    """Return the publication that keeps the body of `message` untouched, and of its headers the portable ones.

    A release needs no other headers. It looks for results since the message was stored, as the request may have been
    sent. `reason` names the field and the rule, not the value.
    """
    kept = {HEADER_SINCE: message.stored_at.isoformat()} | (portable_headers(message.headers) if keep_headers else {})
    return _quarantine(message.identity, message.subject, message.data if keep_body else b"", kept, code, reason)


def quarantine_record(record: StoredMessage, stream: str, error: JetStreamError) -> Publication:
    """Return the publication that keeps a message of `stream` whose copy the server refused for good."""
    reason = f"it cannot be moved: {error}; its headers are dropped"
    since = {HEADER_SINCE: record.stored_at.isoformat()}
    return _quarantine(f"{stream}.{record.sequence}", record.subject, record.data, since, Code.INTERNAL, reason)


def _quarantine(
    identity: str, subject: str, data: bytes, headers: dict[str, str], code: Code, reason: str
) -> Publication:
    headers = headers | {HEADER_MSG_ID: identity, HEADER_CODE: code.value, HEADER_REASON: as_value(reason)}
    if is_portable(subject):
        headers[HEADER_ORIGIN] = subject
    return Publication(subjects.quarantined_origin(subject), data, headers)
