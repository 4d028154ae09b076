"""Keys in memory: they sign, and do nothing else."""

import hashlib
import re
from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import ClassVar, Final, Literal, NamedTuple, NoReturn, final

from msgspec import Struct

from provider.errors import SecretMalformed
from provider.opaque import Opaque
from provider.strict_base64 import strict_base64

MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
MAX_OVERLAP: Final = timedelta(days=30)

Slot = Literal["current", "previous"]
Scheme = Literal["v1", "v1a"]
"""HMAC-SHA256 and Ed25519, as Standard Webhooks names them."""
SLOTS: Final[tuple[Slot, Slot]] = ("current", "previous")

_PREFIX = b"whsec_"
_MARKS = (_PREFIX, b"whsk_", b"whpk_")
_TEXT = re.compile(rb"[ -~\t\n\r\x0b\x0c]*")
_BLOCK = hashlib.sha256().block_size
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class SigningKey(Opaque, ABC):
    """A key of any scheme: it can sign, is nobody's equal, and has no hash."""

    __slots__ = ()

    scheme: ClassVar[Scheme]

    @abstractmethod
    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, each time the same. Raises `TypeError` for anything but bytes."""

    def signs_like(self, other: "SigningKey") -> bool:
        """Whether both keys give the same signatures. Only for finding a rollover from a key to itself."""
        return self.sign(b"") == other.sign(b"")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} has no hash")


@final
class HmacKey(SigningKey):
    """An HMAC-SHA256 key that can sign and cannot be shown, compared by value, hashed, copied, pickled or encoded.

    It keeps the two hash states of RFC 2104 after their key blocks and not the key, which also makes signing cheaper.
    """

    __slots__ = ("__inner", "__outer")

    scheme: ClassVar[Scheme] = "v1"

    def __init__(self, material: bytes) -> None:
        """Take `whsec_` and strict base64, or raw bytes: 24 to 64 after decoding. Raises `SecretMalformed`."""
        key = _accepted(material)
        del material  # a traceback that shows locals must not find it in this frame
        if key is None:
            raise SecretMalformed
        block = key.ljust(_BLOCK, b"\0")
        self.__inner = hashlib.sha256(block.translate(_INNER))
        self.__outer = hashlib.sha256(block.translate(_OUTER))

    def sign(self, message: bytes) -> bytes:
        """The 32 bytes of HMAC-SHA256 of `message`. Raises `TypeError` for anything but bytes."""
        if type(message) is not bytes:  # costs no call, as all else that is refused here does
            require_bytes(message)
        inner = self.__inner.copy()
        inner.update(message)
        outer = self.__outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def require_bytes(message: bytes) -> None:
    """Raise `TypeError` unless `message` is bytes, before a library sees it and keeps a frame with the key."""
    if not isinstance(message, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError("a message to sign must be bytes")


def _accepted(material: bytes) -> bytes | None:
    """The key bytes in `material`, or nothing. It returns, where others raise, to keep them out of tracebacks."""
    key = strict_base64(material.removeprefix(_PREFIX)) if material.startswith(_PREFIX) else _raw(material)
    return key if key is not None and MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES else None


def _raw(material: bytes) -> bytes | None:
    """The bytes as they are, unless they look like a mistake.

    Text with white space around it is what `echo` without `-n` leaves; a `whsec_` further in sits behind a quote or a
    byte order mark; `whsk_` and `whpk_` are keys of another scheme. Bytes that are no text may begin and end anyhow.
    """
    is_padded_text = _TEXT.fullmatch(material) is not None and material != material.strip()
    return None if is_padded_text or any(mark in material for mark in _MARKS) else material


class KeySignature(NamedTuple):
    """What one key made of a message."""

    slot: Slot
    scheme: Scheme
    value: bytes


class KeyRollover(Struct, frozen=True):
    """How things stand with the previous key at one moment."""

    active: bool
    """It signs beside the current one."""
    expires_at: datetime | None
    """When it stops, or stopped, or would stop; None without a usable previous key."""
    misconfigured: bool
    """It is there and left out for a reason that somebody must mend."""


@final
class SigningSecret(Opaque):
    """The key of one ref, with the previous one while a rollover lasts, and the version that both came in."""

    __slots__ = ("__both", "__current", "previous_expires_at", "rollover_misconfigured", "version")

    def __init__(
        self,
        *,
        current: SigningKey,
        version: str,
        previous: SigningKey | None = None,
        previous_expires_at: datetime | None = None,
        rollover_misconfigured: bool = False,
    ) -> None:
        """The keys may be of different schemes, as they are while a receiver moves from one to the other."""
        self.__current = (current,)
        self.__both = None if previous is None else (current, previous)
        self.version: Final = version
        """`uid/resourceVersion` of the Secret."""
        self.previous_expires_at: Final = previous_expires_at
        self.rollover_misconfigured: Final = rollover_misconfigured
        """A previous key is there and left out: it is malformed, the current one again, or says no usable expiry."""

    def previous_is_valid(self, now: datetime) -> bool:
        """Whether the previous key signs at `now`: `now < previous_expires_at <= now + 30 days`."""
        expires_at = self.previous_expires_at
        return self.__both is not None and expires_at is not None and now < expires_at <= now + MAX_OVERLAP

    def rollover(self, now: datetime) -> KeyRollover:
        """How things stand with the previous key at `now`. One that ends too far off is misconfigured until then."""
        expires_at = self.previous_expires_at if self.__both is not None else None
        is_too_far = expires_at is not None and expires_at > now + MAX_OVERLAP
        return KeyRollover(self.previous_is_valid(now), expires_at, self.rollover_misconfigured or is_too_far)

    def keys(self, now: datetime) -> tuple[SigningKey, ...]:
        """The keys that are valid at `now`, as `SLOTS` names them. Raises `TypeError` when it has no time zone."""
        if now.tzinfo is None:  # or it would only be noticed during a rollover
            raise TypeError("a time to sign at must have a time zone")
        both = self.__both
        return both if both is not None and self.previous_is_valid(now) else self.__current

    def sign(self, message: bytes, now: datetime) -> list[KeySignature]:
        """Sign with every key that is valid at `now`, the current one first.

        Raises `TypeError` when `message` is not bytes, or `now` has no time zone.
        """
        keys = self.keys(now)
        return [KeySignature(slot, key.scheme, key.sign(message)) for slot, key in zip(SLOTS, keys, strict=False)]
