"""Verification of a received request's signature, with an explanation of a signature that differs.

A signature that differs usually has one of a few causes: a framework re-serialized the JSON, a line end was added or
lost, or the secret was used as text. The verifier tries them. A step repeats nothing of the secret and of the body.
"""

import hmac
import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import product
from typing import Final

from msgspec import Struct

from consumers.signatures.signer import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, signed_bytes
from provider.errors import SecretMalformed
from provider.signing_keys import MAX_KEY_BYTES, MIN_KEY_BYTES, HmacKey, Scheme

TOLERANCE_S: Final = 300
PREFIX: Final = "whsec_"
PUBLIC_PREFIX: Final = "whpk_"
PRIVATE_PREFIX: Final = "whsk_"
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final[dict[Scheme, int]] = {"v1": 32, "v1a": 64}

Matcher = Callable[[bytes], bool]
"""Returns whether its key made one of the received signatures of a message."""


class VerifiedPart(StrEnum):
    """A part of the request, in the order of the checks."""

    SECRET = "secret"
    ID = ID_HEADER
    TIMESTAMP = TIMESTAMP_HEADER
    SIGNATURE = SIGNATURE_HEADER


class MismatchCause(StrEnum):
    """A cause of a signature that differs; the value is a sentence for the operator of the receiver."""

    BODY_COMPACT = "the body was parsed and re-serialized: as compact JSON it has this signature"
    BODY_SPACED = "the body was parsed and re-serialized: as JSON with spaces it has this signature"
    BODY_INDENTED = "the body was parsed and re-serialized: as indented JSON it has this signature"
    BODY_LINE_FEED_ADDED = "the body has an extra line end: without it, the body has this signature"
    BODY_LINE_FEED_LOST = "the body has lost its last line end: with it, the body has this signature"
    BODY_LINE_ENDS = "the body's line ends were converted: with the original ones it has this signature"
    BODY_BYTE_ORDER_MARK = "the body begins with a byte order mark: without it, the body has this signature"
    KEY_NOT_DECODED = f"the sender used the secret's text after {PREFIX} as the key, instead of decoding its base64"
    KEY_WITH_PREFIX = (
        f"the sender used the secret's text, {PREFIX} included, as the key, instead of decoding its base64"
    )
    KEY_DECODED = f"the sender decoded the secret from base64: put {PREFIX} in front of it here"
    KEY_SPACES = "the secret has spaces or line ends around it: without them it made this signature"


class VerificationStep(Struct, frozen=True):
    """A part of the request, whether it is valid, and a sentence about it."""

    part: VerifiedPart
    ok: bool
    text: str


class VerificationResult(Struct, frozen=True):
    """The outcome of all steps, and the cause of a signature that differs, if it is a known one."""

    checks: tuple[VerificationStep, ...]
    cause: MismatchCause | None = None

    @property
    def valid(self) -> bool:
        """True if a receiver must accept the request. An unusable secret beside a good one does not matter."""
        return all(check.ok for check in self.checks if check.part is not VerifiedPart.SECRET)


def verify(secrets: Sequence[str], *, headers: Mapping[str, str], body: bytes, now: datetime) -> VerificationResult:
    """Check a request against the secrets that its receiver knows. Raises nothing, whatever the request holds.

    Args:
        secrets: Current and previous secret, in any order: `whsec_` and base64, or raw text, for `v1`; the public key,
            `whpk_` and base64, for `v1a`.
        headers: The headers, in any case.
        body: The body as received.
        now: The time of receipt, with a time zone.
    """
    received = {name.lower(): value.strip() for name, value in headers.items()}
    delivery, timestamp = received.get(ID_HEADER, ""), received.get(TIMESTAMP_HEADER, "")
    header = received.get(SIGNATURE_HEADER, "")
    signatures, schemes = _Signatures(header), _schemes(secrets)
    steps = [*map(_check_secret, secrets), _check_id(delivery), _check_timestamp(timestamp, now)]
    if not any(signatures.of_scheme[scheme] for scheme in schemes):
        return VerificationResult((*steps, _missing_signature(header, schemes)))
    message = signed_bytes(delivery, timestamp, body)
    if any(matches(message) for secret in secrets if (matches := _matcher(secret, signatures)) is not None):
        return VerificationResult((*steps, _right(VerifiedPart.SIGNATURE, "made of this body, with this secret")))
    cause = next(_causes(secrets, delivery, timestamp, body, signatures), None)
    text = cause.value if cause else "made with another secret, or of another body, id or timestamp"
    return VerificationResult((*steps, _wrong(VerifiedPart.SIGNATURE, text)), cause)


class _Signatures:
    """The signatures in a header. Other schemes and malformed signatures are skipped, as the specification requires."""

    def __init__(self, header: str) -> None:
        self.of_scheme: dict[Scheme, list[bytes]] = {"v1": [], "v1a": []}
        for entry in header.split():
            for scheme, found in self.of_scheme.items():
                signature = _decode_base64(entry.removeprefix(f"{scheme},")) if entry.startswith(f"{scheme},") else None
                if signature is not None and len(signature) == SIGNATURE_BYTES[scheme]:
                    found.append(signature)

    def match_secret(self, key: bytes) -> Matcher:
        """Return a matcher for HMAC-SHA256 with a key of any length."""
        return self.match_signing(lambda message: hmac.digest(key, message, "sha256"))

    def match_signing(self, sign: Callable[[bytes], bytes]) -> Matcher:
        """Return a matcher for a symmetric key."""
        return lambda message: self._has(sign(message))

    def _has(self, digest: bytes) -> bool:
        return any(hmac.compare_digest(digest, signature) for signature in self.of_scheme["v1"])

    def match_public_key(self, key: bytes) -> Matcher:
        """Return a matcher for the private half of an Ed25519 key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        public = Ed25519PublicKey.from_public_bytes(key)

        def matches(message: bytes) -> bool:
            for signature in self.of_scheme["v1a"]:
                try:
                    public.verify(signature, message)
                except InvalidSignature:
                    continue
                return True
            return False

        return matches


_NO_SIGNATURES: Final = _Signatures("")


def _right(part: VerifiedPart, text: str) -> VerificationStep:
    return VerificationStep(part, ok=True, text=text)


def _wrong(part: VerifiedPart, text: str) -> VerificationStep:
    return VerificationStep(part, ok=False, text=text)


def _decode_base64(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def _schemes(secrets: Sequence[str]) -> list[Scheme]:
    """Return the schemes of the secrets; without any secret, the one that most receivers use."""
    public = [secret.strip().startswith(PUBLIC_PREFIX) for secret in secrets]
    schemes: list[Scheme] = [] if public and all(public) else ["v1"]
    return [*schemes, "v1a"] if any(public) else schemes


def _check_secret(secret: str) -> VerificationStep:
    if _matcher(secret, _NO_SIGNATURES) is not None:
        return _right(VerifiedPart.SECRET, "usable as a key")
    if secret != secret.strip():
        text = "there are spaces or line ends around it"
    elif secret.startswith(PRIVATE_PREFIX):
        text = f"this is the sender's private key, which receivers must not have; theirs is {PUBLIC_PREFIX} and base64"
    elif secret.startswith(PUBLIC_PREFIX):
        text = f"not a public key: those are {PUBLIC_PREFIX} and base64 of {PUBLIC_KEY_BYTES} bytes"
    elif secret.startswith(PREFIX) and _decode_base64(secret.removeprefix(PREFIX)) is None:
        text = f"the text after {PREFIX} is not base64"
    else:
        text = f"not an HMAC key: those are {PREFIX} and base64, or raw, of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
    return _wrong(VerifiedPart.SECRET, text)


def _check_id(delivery: str) -> VerificationStep:
    if not delivery:
        return _wrong(VerifiedPart.ID, "this header is missing")
    if "." in delivery:
        return _wrong(VerifiedPart.ID, "it has a full stop in it, which makes the signed bytes ambiguous")
    return _right(VerifiedPart.ID, "present")


def _check_timestamp(timestamp: str, now: datetime) -> VerificationStep:
    if not timestamp:
        return _wrong(VerifiedPart.TIMESTAMP, "this header is missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return _wrong(VerifiedPart.TIMESTAMP, "it is not a number of seconds since 1970")
    age_s = int(now.timestamp()) - int(timestamp)
    side = "old" if age_s >= 0 else "ahead of the clock here"
    text = f"{_format_time(int(timestamp))}, {abs(age_s)} s {side}; at most {TOLERANCE_S} s are allowed to either side"
    return VerificationStep(VerifiedPart.TIMESTAMP, ok=abs(age_s) <= TOLERANCE_S, text=text)


def _format_time(timestamp: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp, UTC).isoformat()
    except (OverflowError, ValueError):
        return "beyond the year 9999"


def _missing_signature(header: str, schemes: Sequence[Scheme]) -> VerificationStep:
    wanted = " and no ".join(
        f"`{scheme},` signature of {SIGNATURE_BYTES[scheme]} bytes in base64" for scheme in schemes
    )
    return _wrong(VerifiedPart.SIGNATURE, f"it holds no {wanted}" if header else "this header is missing")


def _matcher(secret: str, signatures: _Signatures) -> Matcher | None:
    """Return a matcher for a secret as the provider accepts it, or for a public key; None if it is neither."""
    if secret.startswith(PUBLIC_PREFIX):
        key = _decode_base64(secret.removeprefix(PUBLIC_PREFIX))
        return signatures.match_public_key(key) if key is not None and len(key) == PUBLIC_KEY_BYTES else None
    try:
        return signatures.match_signing(HmacKey(secret.encode(errors="surrogateescape")).sign)
    except SecretMalformed:
        return None


def _causes(
    secrets: Sequence[str], delivery: str, timestamp: str, body: bytes, signatures: _Signatures
) -> Iterator[MismatchCause]:
    """Yield what explains the signatures: a change to the key, to the body, or to both."""
    keys = [variant for secret in secrets for variant in _key_variants(secret, signatures)]
    bodies: list[tuple[MismatchCause | None, bytes]] = [(None, body), *_body_variants(body)]
    for (key_cause, matches), (body_cause, variant) in product(keys, bodies):
        cause = key_cause or body_cause
        if cause and matches(signed_bytes(delivery, timestamp, variant)):
            yield cause


def _key_variants(secret: str, signatures: _Signatures) -> Iterator[tuple[MismatchCause | None, Matcher]]:
    text = secret.strip()
    bare = text.removeprefix(PREFIX)
    spaces = None if text == secret else MismatchCause.KEY_SPACES
    if text.startswith(PUBLIC_PREFIX):
        if (matches := _matcher(text, signatures)) is not None:
            yield spaces, matches
        return
    # Keys of any length: this is about mistakes.
    decoded, raw = _decode_base64(bare), bare.encode(errors="surrogateescape")
    if text == bare:
        yield spaces, signatures.match_secret(raw)
        if decoded is not None:
            yield MismatchCause.KEY_DECODED, signatures.match_secret(decoded)
        return
    if decoded is not None:
        yield spaces, signatures.match_secret(decoded)
    yield MismatchCause.KEY_NOT_DECODED, signatures.match_secret(raw)
    yield MismatchCause.KEY_WITH_PREFIX, signatures.match_secret(text.encode(errors="surrogateescape"))


def _body_variants(body: bytes) -> Iterator[tuple[MismatchCause, bytes]]:
    yield MismatchCause.BODY_LINE_FEED_ADDED, body.removesuffix(b"\n").removesuffix(b"\r")
    yield MismatchCause.BODY_LINE_FEED_ADDED, body.removesuffix(b"\n")
    yield MismatchCause.BODY_LINE_FEED_LOST, body + b"\n"
    yield MismatchCause.BODY_LINE_FEED_LOST, body + b"\r\n"
    yield MismatchCause.BODY_LINE_ENDS, body.replace(b"\r\n", b"\n")
    yield MismatchCause.BODY_LINE_ENDS, body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    yield MismatchCause.BODY_BYTE_ORDER_MARK, body.removeprefix(b"\xef\xbb\xbf")
    yield from _reserialize(body)


def _reserialize(body: bytes) -> list[tuple[MismatchCause, bytes]]:
    """Return the body as usual JSON libraries write it, with and without a line feed; nothing if it is not JSON."""
    forms: tuple[tuple[MismatchCause, tuple[str, str], int | str | None], ...] = (
        (MismatchCause.BODY_COMPACT, (",", ":"), None),
        (MismatchCause.BODY_SPACED, (", ", ": "), None),
        (MismatchCause.BODY_INDENTED, (",", ": "), 2),
        (MismatchCause.BODY_INDENTED, (",", ": "), 4),
        (MismatchCause.BODY_INDENTED, (",", ": "), "\t"),
    )
    variants: list[tuple[MismatchCause, bytes]] = []
    try:
        document = json.loads(body)
        for (cause, separators, indent), ascii_only, sort_keys in product(forms, (False, True), (False, True)):
            text = json.dumps(
                document, ensure_ascii=ascii_only, sort_keys=sort_keys, separators=separators, indent=indent
            )
            variants += [(cause, text.encode(errors="surrogatepass") + end) for end in (b"", b"\n")]
    except (ValueError, RecursionError):
        return []
    return variants
