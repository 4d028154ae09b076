"""How a message may be settled, as its handler says it: acknowledged after something is stored, or handed back."""

import msgspec

from messaging.publisher import Publication
from messaging.pull_consumer import Message
from schemas import subjects
from schemas.codes import Code
from schemas.headers import portable_headers


class Requeue(msgspec.Struct, frozen=True):
    """Store these, and hand the message back: it is to come again, at once."""

    publications: tuple[Publication, ...] = ()


Disposition = tuple[Publication, ...] | Requeue
"""What must be stored, in this order, before the message is acknowledged, or handed back."""


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
