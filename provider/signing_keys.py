"""Keys in memory. A key can sign and do nothing else."""

import base64
import hashlib
import re
from abc import ABC, abstractmethod
from array import array
from typing import ClassVar, Final, Literal, NoReturn, final

from provider.errors import SecretMalformed
from provider.fragments import fragments_of
from provider.opaque import Opaque

MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64

Scheme = Literal["v1", "v1a"]
"""HMAC-SHA256 and Ed25519, by their Standard Webhooks names."""

_PREFIX = b"whsec_"
_KEY_PREFIXES = (_PREFIX, b"whsk_", b"whpk_")
_TEXT = re.compile(rb"[ -~\t\n\r\x0b\x0c]*")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_BLOCK = hashlib.sha256().block_size
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class SigningKey(Opaque, ABC):
    """Key of any scheme. It can sign, equals only itself, and has no hash."""

    __slots__ = ("fragments",)

    scheme: ClassVar[Scheme]
    fragments: "array[int]"
    """The hashes of the pieces of the key and of its text."""

    @abstractmethod
    def sign(self, message: bytes) -> bytes:
        """Return the deterministic signature of `message`. Raises `TypeError` for anything but bytes."""

    def signs_like(self, other: "SigningKey") -> bool:
        """Return true if both keys give the same signatures: a rollover from a key to itself."""
        return self.sign(b"") == other.sign(b"")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} has no hash")


@final
class HmacKey(SigningKey):
    """HMAC-SHA256 key, kept as the two hash states of RFC 2104 after their key blocks.

    The key itself is not kept, and signing from the states is cheaper.
    """

    __slots__ = ("__inner", "__outer")

    scheme: ClassVar[Scheme] = "v1"

    def __init__(self, material: bytes) -> None:
        """Parse `whsec_` and strict base64, or raw bytes: 24 to 64 after decoding. Raises `SecretMalformed`."""
        key = _parse(material)
        self.fragments = array("q") if key is None else fragments_of(material, key)
        del material  # a traceback that shows locals must not find it in this frame
        if key is None:
            raise SecretMalformed
        block = key.ljust(_BLOCK, b"\0")
        self.__inner = hashlib.sha256(block.translate(_INNER))
        self.__outer = hashlib.sha256(block.translate(_OUTER))

    def sign(self, message: bytes) -> bytes:
        """Return the 32 bytes of HMAC-SHA256. Raises `TypeError` for anything but bytes."""
        if type(message) is not bytes:  # costs no call on the hot path
            require_bytes(message)
        inner = self.__inner.copy()
        inner.update(message)
        outer = self.__outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def require_bytes(message: bytes) -> None:
    """Raise `TypeError` unless `message` is bytes, before a library raises and keeps a frame with the key."""
    if not isinstance(message, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError("a message to sign must be bytes")


def decode_strict_base64(text: bytes) -> bytes | None:
    """Return the decoded bytes, or None for anything but canonical base64. Never raises: tracebacks keep locals."""
    # b64decode(validate=True) alone lets surplus padding pass.
    return base64.b64decode(text, validate=True) if _BASE64.fullmatch(text) else None


def _parse(material: bytes) -> bytes | None:
    # Returns None instead of raising, to keep the key out of tracebacks.
    if material.startswith(_PREFIX):
        key = decode_strict_base64(material.removeprefix(_PREFIX))
    else:
        key = None if _looks_like_a_mistake(material) else material
    return key if key is not None and MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES else None


def _looks_like_a_mistake(material: bytes) -> bool:
    """Return true for text with white space around it, and for a key prefix anywhere.

    `echo` without `-n` leaves a line end. A `whsec_` inside follows a quote or a byte order mark; `whsk_` and `whpk_`
    are keys of another scheme. Bytes that are no text may begin and end with any byte.
    """
    is_padded_text = _TEXT.fullmatch(material) is not None and material != material.strip()
    return is_padded_text or any(prefix in material for prefix in _KEY_PREFIXES)
