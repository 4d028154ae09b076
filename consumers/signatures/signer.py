"""Signatures of Standard Webhooks 1.0.0: schemes `v1` (HMAC-SHA256) and `v1a` (Ed25519).

A signature covers delivery id, time of the attempt and body, so that a receiver can refuse an altered, an old or a
repeated request. During a rollover both keys sign.
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
    """The signature headers of one attempt, and the keys that signed."""

    timestamp: str
    """`webhook-timestamp`: unix seconds of this attempt."""
    signature: str
    """`webhook-signature`: scheme, comma and base64 for each key, the current one first, separated by spaces."""
    slots: tuple[Slot, ...]
    """The keys that signed, in that order."""


def sign(secret: SigningSecret, *, delivery: str, body: bytes, now: datetime) -> SignedHeaders:
    """Sign `body`, exactly as it is sent, for an attempt at `now`, a time with a time zone.

    Raises `ValueError` for a delivery id with a full stop, which would make the signed bytes ambiguous.
    """
    if "." in delivery:
        raise ValueError("a delivery id has no full stop in it")
    timestamp = f"{int(now.timestamp())}"
    message = signed_bytes(delivery, timestamp, body)
    key, *others = secret.select_keys(now)  # one key, but for rollovers
    signature = f"{key.scheme},{b2a_base64(key.sign(message), newline=False).decode()}"
    if not others:
        return SignedHeaders(timestamp, signature, _CURRENT)
    for other in others:
        signature += f" {other.scheme},{b2a_base64(other.sign(message), newline=False).decode()}"
    return SignedHeaders(timestamp, signature, SLOTS)


def signed_bytes(delivery: str, timestamp: str, body: bytes) -> bytes:
    """Return the bytes that a signature covers: `{id}.{timestamp}.{body}`."""
    return f"{delivery}.{timestamp}.".encode(errors="surrogateescape") + body
