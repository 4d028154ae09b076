"""Signatures on deliveries: Standard Webhooks 1.0.0, schemes `v1` (HMAC-SHA256) and `v1a` (Ed25519).

Signed are the delivery id, the time of this attempt and the body, joined by full stops, so that a receiver can refuse
what was altered, what is old and what it has already seen. While a secret is rolled over, both of its keys sign.
"""

from binascii import b2a_base64
from datetime import datetime
from typing import Final

from msgspec import Struct

from provider.signing_secret import SLOTS, SigningSecret, Slot

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

_CURRENT = SLOTS[:1]


class SignedHeaders(Struct, frozen=True, gc=False):
    """What goes into the headers beside the delivery id, and what the attempt's result says of it."""

    timestamp: str
    """`webhook-timestamp`: seconds since 1970 of this attempt."""
    signature: str
    """`webhook-signature`: scheme, comma and base64 for each key, the current one first, with a blank between."""
    slots: tuple[Slot, ...]
    """Which keys signed, in the same order."""


def sign(secret: SigningSecret, *, delivery: str, body: bytes, now: datetime) -> SignedHeaders:
    """Sign `body` for an attempt that is made at `now`, an aware time. Send exactly these bytes.

    Raises `ValueError` for a delivery id with a full stop in it: what is signed could then be read in two ways.
    """
    if "." in delivery:
        raise ValueError("a delivery id has no full stop in it")
    timestamp = f"{int(now.timestamp())}"
    message = signed_bytes(delivery, timestamp, body)
    key, *others = secret.select_keys(now)  # nearly always one, for which neither a list nor a join is needed
    signature = f"{key.scheme},{b2a_base64(key.sign(message), newline=False).decode()}"
    if not others:
        return SignedHeaders(timestamp, signature, _CURRENT)
    for other in others:
        signature += f" {other.scheme},{b2a_base64(other.sign(message), newline=False).decode()}"
    return SignedHeaders(timestamp, signature, SLOTS)


def signed_bytes(delivery: str, timestamp: str, body: bytes) -> bytes:
    """The bytes that a signature is made of: `{id}.{timestamp}.{body}`."""
    return f"{delivery}.{timestamp}.".encode(errors="surrogateescape") + body
