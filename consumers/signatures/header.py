"""The signatures in a received header, and whether a key is behind one of them. Both schemes of Standard Webhooks."""

import hmac
from base64 import b64decode
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from provider.signing_keys import Scheme

SIZES: Final[dict[Scheme, int]] = {"v1": 32, "v1a": 64}
"""Bytes of a signature: HMAC-SHA256 and Ed25519."""
PUBLIC_KEY_BYTES: Final = 32

Matcher = Callable[[bytes], bool]
"""Says of a message whether the key that it stands for made one of the signatures."""


class SignatureHeader(Struct, frozen=True):
    """What a header holds, scheme by scheme."""

    v1: tuple[bytes, ...]
    v1a: tuple[bytes, ...]

    @classmethod
    def of(cls, header: str) -> "SignatureHeader":
        """Other schemes, and what is no signature of its scheme, are passed over, as the specification asks."""
        return cls(_of_scheme(header, "v1"), _of_scheme(header, "v1a"))

    def of_scheme(self, scheme: Scheme) -> tuple[bytes, ...]:
        """Those of one scheme."""
        return self.v1 if scheme == "v1" else self.v1a

    def by_secret(self, key: bytes) -> Matcher:
        """Whether HMAC-SHA256 with `key`, of any length, gives one of them."""
        return lambda message: self._have(hmac.digest(key, message, "sha256"))

    def by_signing(self, sign: Callable[[bytes], bytes]) -> Matcher:
        """Whether `sign`, which a symmetric key does, gives one of them."""
        return lambda message: self._have(sign(message))

    def by_public_key(self, key: bytes) -> Matcher:
        """Whether one of them is the Ed25519 signature of the private half of `key`, of 32 bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        public = Ed25519PublicKey.from_public_bytes(key)

        def matches(message: bytes) -> bool:
            for signature in self.v1a:
                try:
                    public.verify(signature, message)
                except InvalidSignature:
                    continue
                return True
            return False

        return matches

    def _have(self, digest: bytes) -> bool:
        return any(hmac.compare_digest(digest, signature) for signature in self.v1)


def strict_base64(text: str) -> bytes | None:
    """The bytes that `text` encodes, or None."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def _of_scheme(header: str, scheme: Scheme) -> tuple[bytes, ...]:
    mark = f"{scheme},"
    found = [strict_base64(entry.removeprefix(mark)) for entry in header.split() if entry.startswith(mark)]
    return tuple([signature for signature in found if signature is not None and len(signature) == SIZES[scheme]])
