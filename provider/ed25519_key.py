"""Ed25519 keys: scheme `v1a` of Standard Webhooks. Receivers hold a public key and cannot forge signatures."""

from array import array
from typing import TYPE_CHECKING, ClassVar, Final, final

from provider.errors import SecretMalformed
from provider.fragments import fragments_of
from provider.signing_keys import Scheme, SigningKey, decode_strict_base64, require_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX: Final = b"whsk_"
HALF_BYTES: Final = 32


@final
class Ed25519SigningKey(SigningKey):
    """Private key, held by OpenSSL. The library is imported with the first Ed25519 key."""

    __slots__ = ("__key",)

    scheme: ClassVar[Scheme] = "v1a"

    def __init__(self, material: bytes) -> None:
        """Parse `whsk_` and strict base64 of the private and the public half, 32 bytes each.

        Raises `SecretMalformed`, also for halves that do not match: receivers would verify with another key.
        """
        key = _parse(material)
        self.fragments = array("q") if key is None else fragments_of(material, key.private_bytes_raw())
        del material  # a traceback that shows locals must not find it in this frame
        if key is None:
            raise SecretMalformed
        self.__key = key

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of Ed25519 (RFC 8032). Raises `TypeError` for anything but bytes."""
        require_bytes(message)
        return self.__key.sign(message)


def _parse(material: bytes) -> "Ed25519PrivateKey | None":
    # Returns None instead of raising, to keep the key out of tracebacks.
    if not material.startswith(PREFIX):
        return None
    halves = decode_strict_base64(material.removeprefix(PREFIX))
    if halves is None or len(halves) != 2 * HALF_BYTES:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(halves[:HALF_BYTES])
    return key if key.public_key().public_bytes_raw() == halves[HALF_BYTES:] else None
