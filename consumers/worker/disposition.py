"""Dispositions of a message: publications to store, and then an acknowledgement or a requeue."""

import msgspec

from messaging.message import Message
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Code
from schemas.headers import (
    HEADER_CODE,
    HEADER_MSG_ID,
    HEADER_ORIGIN,
    HEADER_REASON,
    as_value,
    is_portable,
    portable_headers,
)


class Requeue(msgspec.Struct, frozen=True):
    """Store `publications`, and return the message to its stream, which delivers it again at once."""

    publications: tuple[Publication, ...] = ()


Disposition = tuple[Publication, ...] | Requeue
"""Publications to store, in this order, before the message is acknowledged or requeued."""

HandlerResult = Disposition | Exception
"""How a handler ended: with a disposition, or with an unforeseen error."""


def quarantine_publication(message: Message, code: Code, reason: str, *, keep_headers: bool = True) -> Publication:
    """Return the publication that keeps the body of `message` untouched, and of its headers the portable ones.

    A release needs no other headers. `reason` names the field and the rule, not the value.
    """
    headers = (portable_headers(message.headers) if keep_headers else {}) | {
        HEADER_MSG_ID: f"{message.stream}.{message.sequence}",
        HEADER_CODE: code.value,
        HEADER_REASON: as_value(reason),
    }
    if is_portable(message.subject):
        headers[HEADER_ORIGIN] = message.subject
    return Publication(subjects.quarantined_origin(message.subject), message.data, headers)
