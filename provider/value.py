"""Keys in memory: they sign, and do nothing else."""

import base64
import binascii
import hashlib
from datetime import datetime, timedelta
from typing import Final, Literal, NoReturn, final

from provider.errors import SecretMalformed

MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
MAX_OVERLAP: Final = timedelta(days=30)

Slot = Literal["current", "previous"]

_PREFIX = b"whsec_"
_BLOCK = hashlib.sha256().block_size
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


@final
class SigningKey:
    """An HMAC-SHA256 key that can sign and cannot be shown, compared by value, copied, pickled or encoded.

    It keeps the two hash states of RFC 2104 after their key blocks and not the key, which also makes signing cheaper.
    """

    __slots__ = ("__inner", "__outer")

    def __init__(self, material: bytes) -> None:
        """Take `whsec_` and strict base64, or raw bytes: 24 to 64 after decoding. Raises `SecretMalformed`."""
        key = _decoded(material)
        if key is None or not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise SecretMalformed
        block = key.ljust(_BLOCK, b"\0")
        self.__inner = hashlib.sha256(block.translate(_INNER))
        self.__outer = hashlib.sha256(block.translate(_OUTER))

    def sign(self, message: bytes) -> bytes:
        """The 32 bytes of HMAC-SHA256 of `message`."""
        inner = self.__inner.copy()
        inner.update(message)
        outer = self.__outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def __repr__(self) -> str:
        return "SigningKey(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SigningKey can't be copied or serialised")

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


def _decoded(material: bytes) -> bytes | None:
    if not material.startswith(_PREFIX):
        return None if material.startswith(b"whsk_") or material != material.strip() else material
    try:
        return base64.b64decode(material[len(_PREFIX) :], validate=True)
    except binascii.Error:
        return None


@final
class SigningSecret:
    """The key of one ref, with the previous one while a rollover lasts, and the version that both came in."""

    __slots__ = ("__current", "__previous", "previous_expires_at", "version")

    def __init__(
        self,
        *,
        current: SigningKey,
        version: str,
        previous: SigningKey | None = None,
        previous_expires_at: datetime | None = None,
    ) -> None:
        self.__current = current
        self.__previous = previous
        self.version: Final = version
        """`uid/resourceVersion` of the Secret."""
        self.previous_expires_at: Final = previous_expires_at

    def previous_is_valid(self, now: datetime) -> bool:
        """Whether the previous key signs at `now`: `now < previous_expires_at <= now + 30 days`."""
        expires_at = self.previous_expires_at
        return self.__previous is not None and expires_at is not None and now < expires_at <= now + MAX_OVERLAP

    def sign(self, message: bytes, now: datetime) -> list[tuple[Slot, bytes]]:
        """Sign with every key that is valid at `now`, the current one first: slot and 32-byte HMAC-SHA256 each."""
        signatures: list[tuple[Slot, bytes]] = [("current", self.__current.sign(message))]
        if self.__previous is not None and self.previous_is_valid(now):
            signatures.append(("previous", self.__previous.sign(message)))
        return signatures

    def __repr__(self) -> str:
        return "SigningSecret(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SigningSecret can't be copied or serialised")
