"""Ed25519 keys: Standard Webhooks' second scheme, `v1a`. Its receivers hold a public key and can forge nothing."""

from typing import TYPE_CHECKING, ClassVar, Final, final

from provider.errors import SecretMalformed
from provider.signing_keys import Scheme, SigningKey, require_bytes
from provider.strict_base64 import strict_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX: Final = b"whsk_"
HALF_BYTES: Final = 32


@final
class Ed25519SigningKey(SigningKey):
    """A private key that can sign, under the same rules as `HmacKey`. OpenSSL keeps it; this only knows how to ask.

    The library is imported with the first such key, since most installations have none.
    """

    __slots__ = ("__key",)

    scheme: ClassVar[Scheme] = "v1a"

    def __init__(self, material: bytes) -> None:
        """Take `whsk_` and strict base64 of the 32 bytes of the private and the 32 of the public half.

        Raises `SecretMalformed`, also when the halves do not belong together: receivers would verify with another key.
        """
        key = _accepted(material)
        del material  # a traceback that shows locals must not find it in this frame
        if key is None:
            raise SecretMalformed
        self.__key = key

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of Ed25519 (RFC 8032) of `message`. Raises `TypeError` for anything but bytes."""
        require_bytes(message)
        return self.__key.sign(message)


def _accepted(material: bytes) -> "Ed25519PrivateKey | None":
    """The key in `material`, or nothing. It returns, where others raise, to keep it out of tracebacks."""
    if not material.startswith(PREFIX):
        return None
    halves = strict_base64(material.removeprefix(PREFIX))
    if halves is None or len(halves) != 2 * HALF_BYTES:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(halves[:HALF_BYTES])
    return key if key.public_key().public_bytes_raw() == halves[HALF_BYTES:] else None
