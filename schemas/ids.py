"""Identifiers and their grammars (contract, section 2), as msgspec types that validate on decoding.

A pattern ends in ``$(?!\\n)``: Python's ``$`` alone also matches before a trailing line feed, and JSON Schema has no
``\\Z``. Input is never stripped, lower-cased or corrected.
"""

import functools
import re
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)"
DELIVERY_ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
EVENT_TYPE_PATTERN: Final = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$(?!\n)"
MAX_EVENT_TYPE: Final = 128

TenantId = Annotated[str, Meta(pattern=NAME_PATTERN, description="Tenant: a DNS label.", examples=["acme"])]
DestinationId = Annotated[str, Meta(pattern=NAME_PATTERN, description="Destination: a DNS label.", examples=["orders"])]
CredentialId = Annotated[
    str, Meta(pattern=NAME_PATTERN, description="Credential: a DNS label.", examples=["orders-key"])
]
DeliveryId = Annotated[
    str,
    Meta(
        pattern=DELIVERY_ID_PATTERN,
        description="Delivery: the receiver's webhook-id, the same over every retry and replay.",
        examples=["dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"],
    ),
]
EventType = Annotated[
    str,
    Meta(
        pattern=EVENT_TYPE_PATTERN,
        max_length=MAX_EVENT_TYPE,
        description="Words joined by dots.",
        examples=["invoice.paid"],
    ),
]


class Purpose(StrEnum):
    """The purpose of a credential. The purpose label of the Secret must be equal."""

    WEBHOOK_SIGNING = "webhook-signing"


_NAME = re.compile(NAME_PATTERN)
_DELIVERY_ID = re.compile(DELIVERY_ID_PATTERN)
_EVENT_TYPE = re.compile(EVENT_TYPE_PATTERN)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_YEAR_3000_MS = 32_503_680_000_000


def is_name(text: str) -> bool:
    """Return true if ``text`` is a valid name of a tenant, a destination or a credential."""
    return _NAME.match(text) is not None


def is_delivery_id(text: str) -> bool:
    """Return true if ``text`` is a valid delivery id."""
    return _DELIVERY_ID.match(text) is not None


@functools.lru_cache(maxsize=1024)
def is_event_type(text: str) -> bool:
    """Return true if ``text`` is a valid event type. Results are cached: event types are few and repeat."""
    return len(text) <= MAX_EVENT_TYPE and _EVENT_TYPE.match(text) is not None


def new_delivery_id() -> str:
    """Return ``dlv_`` and 26 Crockford base-32 characters: 48 bits of milliseconds and 80 random bits."""
    return "dlv_" + _sortable()


def new_replay_id() -> str:
    """Return ``rpl-`` and 26 lower-case characters, sortable by time and valid as a bucket key."""
    return "rpl-" + _sortable().lower()


def _sortable() -> str:
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def time_of(delivery: str) -> datetime | None:
    """Return the creation time of a delivery id of this program, or None for any other id."""
    text = delivery.removeprefix("dlv_")
    if len(text) != 26 or text == delivery or not set(text) <= set(_CROCKFORD):
        return None
    milliseconds = functools.reduce(lambda number, digit: number << 5 | _CROCKFORD.index(digit), text, 0) >> 80
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds < _YEAR_3000_MS else None
