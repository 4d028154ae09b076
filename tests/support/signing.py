"""Signatures of every valid key of a secret, by slot and scheme."""

from datetime import datetime
from typing import NamedTuple

from provider.signing_keys import Scheme
from provider.signing_secret import SLOTS, SigningSecret, Slot


class KeySignature(NamedTuple):
    """Signature that one key made of a message."""

    slot: Slot
    scheme: Scheme
    value: bytes


def sign_with(secret: SigningSecret, message: bytes, now: datetime) -> list[KeySignature]:
    """Sign with every key that is valid at `now`, the current one first."""
    keys = secret.select_keys(now)
    return [KeySignature(slot, key.scheme, key.sign(message)) for slot, key in zip(SLOTS, keys, strict=False)]
