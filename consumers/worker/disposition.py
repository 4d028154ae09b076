"""How a message is settled: its publications are stored, and then it is acknowledged or requeued."""

import msgspec

from messaging.publisher import Publication
from messaging.pull_consumer import Message
from schemas import subjects
from schemas.codes import Code
from schemas.headers import portable_headers


class Requeue(msgspec.Struct, frozen=True):
    """Store `publications`, and return the message to its stream, which delivers it again at once."""

    publications: tuple[Publication, ...] = ()


Disposition = tuple[Publication, ...] | Requeue
"""Publications to store, in this order, before the message is acknowledged or requeued."""

HandlerResult = Disposition | Exception
"""How a handler ended: with a disposition, or with an unforeseen error."""


def quarantine_publication(message: Message, code: Code, reason: str) -> Publication:
    """Return the publication that keeps the body of `message` untouched, and of its headers the portable ones.

    A release needs no other headers. `reason` names the field and the rule, not the value.
    """
    headers = portable_headers(message.headers) | {
        subjects.HEADER_MSG_ID: f"{message.stream}.{message.sequence}",
        subjects.HEADER_ORIGIN: message.subject,
        subjects.HEADER_CODE: code.value,
        subjects.HEADER_REASON: reason,
    }
    return Publication(subjects.quarantined(message.subject), message.data, headers)
