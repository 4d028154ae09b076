"""Checks a received request's signature and says which part differs: for receivers to whom "the signature differs".

Where the signature is not the expected one, this tries what usually is behind it: a framework that parsed the JSON and
wrote it anew, a line feed more or less, a secret that was used as text instead of being decoded, or used along with its
prefix. A finding repeats nothing of the secret and nothing of the body.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import product
from typing import Final

from msgspec import Struct

from consumers.signatures.header import PUBLIC_KEY_BYTES, SIZES, Matcher, SignatureHeader, strict_base64
from consumers.signatures.signer import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, signed_bytes
from provider.errors import SecretMalformed
from provider.signing_keys import MAX_KEY_BYTES, MIN_KEY_BYTES, HmacKey, Scheme

TOLERANCE_S: Final = 300
PREFIX: Final = "whsec_"
PUBLIC_PREFIX: Final = "whpk_"
PRIVATE_PREFIX: Final = "whsk_"


_NO_SIGNATURES: Final = SignatureHeader((), ())


class VerifiedPart(StrEnum):
    """What was looked at, in the order of the checks."""

    SECRET = "secret"
    ID = ID_HEADER
    TIMESTAMP = TIMESTAMP_HEADER
    SIGNATURE = SIGNATURE_HEADER


class MismatchCause(StrEnum):
    """What explains a signature that differs; the value is the sentence for the receiver."""

    BODY_COMPACT = "the body was parsed and written anew: as compact JSON it has this signature"
    BODY_SPACED = (
        "the body was parsed and written anew: as JSON with blanks after commas and colons it has this signature"
    )
    BODY_INDENTED = "the body was parsed and written anew: as indented JSON it has this signature"
    BODY_LINE_FEED_ADDED = "the body has a line end too many: without it, it has this signature"
    BODY_LINE_FEED_LOST = "the body has lost its last line end: with it, it has this signature"
    BODY_LINE_ENDS = "the body's line ends were changed: as they were, it has this signature"
    BODY_BYTE_ORDER_MARK = "the body begins with a byte order mark: without it, it has this signature"
    KEY_NOT_DECODED = f"the sender used the secret's text after {PREFIX} as the key, instead of decoding its base64"
    KEY_WITH_PREFIX = f"the sender used the secret's text, {PREFIX} and all, as the key, instead of decoding its base64"
    KEY_DECODED = f"the sender decoded the secret from base64: put {PREFIX} in front of it here"
    KEY_BLANKS = "there are blanks or line ends around the secret: without them it made this signature"


class VerificationStep(Struct, frozen=True):
    """One part of the request, whether it is as it has to be, and a sentence about it."""

    part: VerifiedPart
    ok: bool
    text: str


class VerificationResult(Struct, frozen=True):
    """What became of the checks. `cause` explains a signature that differs, where a usual one does."""

    checks: tuple[VerificationStep, ...]
    cause: MismatchCause | None = None

    @property
    def valid(self) -> bool:
        """Whether a receiver has to accept the request. One unusable secret beside a good one is no obstacle."""
        return all(check.ok for check in self.checks if check.part is not VerifiedPart.SECRET)


def verify(secrets: Sequence[str], *, headers: Mapping[str, str], body: bytes, now: datetime) -> VerificationResult:
    """Check a request against the secrets that its receiver knows, current and previous in any order.

    A secret is `whsec_` and base64, or raw text, for `v1`; or the public key `whpk_` and base64 for `v1a`.
    `headers` in any case, `body` as received, `now` aware. Never raises for what it is given to check.
    """
    received = {name.lower(): value.strip() for name, value in headers.items()}
    delivery, timestamp = received.get(ID_HEADER, ""), received.get(TIMESTAMP_HEADER, "")
    header = received.get(SIGNATURE_HEADER, "")
    signatures, schemes = SignatureHeader.of(header), _schemes(secrets)
    checks = [*map(_check_secret, secrets), _check_id(delivery), _check_timestamp(timestamp, now)]
    if not any(signatures.of_scheme(scheme) for scheme in schemes):
        return VerificationResult((*checks, _no_signature(header, schemes)))
    message = signed_bytes(delivery, timestamp, body)
    if any(matches(message) for secret in secrets if (matches := _matcher(secret, signatures)) is not None):
        return VerificationResult(
            (*checks, VerificationStep(VerifiedPart.SIGNATURE, ok=True, text="made of this body, with this secret"))
        )
    cause = next(_causes(secrets, delivery, timestamp, body, signatures), None)
    text = cause.value if cause else "made with another secret, or of another body, id or timestamp"
    return VerificationResult((*checks, VerificationStep(VerifiedPart.SIGNATURE, ok=False, text=text)), cause)


def _schemes(secrets: Sequence[str]) -> list[Scheme]:
    """What the secrets are for; without any, what most receivers have."""
    public = [secret.strip().startswith(PUBLIC_PREFIX) for secret in secrets]
    schemes: list[Scheme] = [] if public and all(public) else ["v1"]
    return [*schemes, "v1a"] if any(public) else schemes


def _check_secret(secret: str) -> VerificationStep:
    if _matcher(secret, _NO_SIGNATURES) is not None:
        return VerificationStep(VerifiedPart.SECRET, ok=True, text="usable as a key")
    if secret != secret.strip():
        text = "there are blanks or line ends around it"
    elif secret.startswith(PRIVATE_PREFIX):
        text = f"this is the sender's private key, which is nobody else's; receivers have {PUBLIC_PREFIX} and base64"
    elif secret.startswith(PUBLIC_PREFIX):
        text = f"no public key: those are {PUBLIC_PREFIX} and base64 of {PUBLIC_KEY_BYTES} bytes"
    elif secret.startswith(PREFIX) and strict_base64(secret.removeprefix(PREFIX)) is None:
        text = f"what follows {PREFIX} is not base64"
    else:
        text = f"no HMAC key: those are {PREFIX} and base64, or raw, of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
    return VerificationStep(VerifiedPart.SECRET, ok=False, text=text)


def _check_id(delivery: str) -> VerificationStep:
    if not delivery:
        return VerificationStep(VerifiedPart.ID, ok=False, text="this header is missing")
    if "." in delivery:
        return VerificationStep(
            VerifiedPart.ID, ok=False, text="it has a full stop in it, so what is signed could be read in two ways"
        )
    return VerificationStep(VerifiedPart.ID, ok=True, text="present")


def _check_timestamp(timestamp: str, now: datetime) -> VerificationStep:
    if not timestamp:
        return VerificationStep(VerifiedPart.TIMESTAMP, ok=False, text="this header is missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return VerificationStep(VerifiedPart.TIMESTAMP, ok=False, text="it is not a number of seconds since 1970")
    age_s = int(now.timestamp()) - int(timestamp)
    side = "old" if age_s >= 0 else "ahead of the clock here"
    text = f"{_moment(int(timestamp))}, {abs(age_s)} s {side}; at most {TOLERANCE_S} s are allowed to either side"
    return VerificationStep(VerifiedPart.TIMESTAMP, ok=abs(age_s) <= TOLERANCE_S, text=text)


def _moment(timestamp: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp, UTC).isoformat()
    except (OverflowError, ValueError):
        return "beyond the year 9999"


def _no_signature(header: str, schemes: Sequence[Scheme]) -> VerificationStep:
    wanted = " and no ".join(f"`{scheme},` signature of {SIZES[scheme]} bytes in base64" for scheme in schemes)
    return VerificationStep(
        VerifiedPart.SIGNATURE, ok=False, text=f"it holds no {wanted}" if header else "this header is missing"
    )


def _matcher(secret: str, signatures: SignatureHeader) -> Matcher | None:
    """What the provider makes of the secret, or the receiver of a public key; None if neither can use it."""
    if secret.startswith(PUBLIC_PREFIX):
        key = strict_base64(secret.removeprefix(PUBLIC_PREFIX))
        return signatures.by_public_key(key) if key is not None and len(key) == PUBLIC_KEY_BYTES else None
    try:
        return signatures.by_signing(HmacKey(secret.encode(errors="surrogateescape")).sign)
    except SecretMalformed:
        return None


def _decoded(secret: str) -> bytes | None:
    """Base64 after the prefix, else the text's own bytes; of any length, since this is about mistakes."""
    if secret.startswith(PREFIX):
        return strict_base64(secret.removeprefix(PREFIX))
    return secret.encode(errors="surrogateescape")


def _causes(
    secrets: Sequence[str], delivery: str, timestamp: str, body: bytes, signatures: SignatureHeader
) -> Iterator[MismatchCause]:
    """Everything that explains the signatures: one change to the key, or to the body, or one to each."""
    keys = [variant for secret in secrets for variant in _key_variants(secret, signatures)]
    bodies: list[tuple[MismatchCause | None, bytes]] = [(None, body), *_body_variants(body)]
    for (key_cause, matches), (body_cause, variant) in product(keys, bodies):
        cause = key_cause or body_cause
        if cause and matches(signed_bytes(delivery, timestamp, variant)):
            yield cause


def _key_variants(secret: str, signatures: SignatureHeader) -> Iterator[tuple[MismatchCause | None, Matcher]]:
    text = secret.strip()
    bare = text.removeprefix(PREFIX)
    blanks = None if text == secret else MismatchCause.KEY_BLANKS
    if text.startswith(PUBLIC_PREFIX):
        if (matches := _matcher(text, signatures)) is not None:
            yield blanks, matches
        return
    if (key := _decoded(text)) is not None:
        yield blanks, signatures.by_secret(key)
    if text != bare:
        yield MismatchCause.KEY_NOT_DECODED, signatures.by_secret(bare.encode(errors="surrogateescape"))
        yield MismatchCause.KEY_WITH_PREFIX, signatures.by_secret(text.encode(errors="surrogateescape"))
    elif (decoded := strict_base64(bare)) is not None:
        yield MismatchCause.KEY_DECODED, signatures.by_secret(decoded)


def _body_variants(body: bytes) -> Iterator[tuple[MismatchCause, bytes]]:
    yield MismatchCause.BODY_LINE_FEED_ADDED, body.removesuffix(b"\n").removesuffix(b"\r")
    yield MismatchCause.BODY_LINE_FEED_ADDED, body.removesuffix(b"\n")
    yield MismatchCause.BODY_LINE_FEED_LOST, body + b"\n"
    yield MismatchCause.BODY_LINE_FEED_LOST, body + b"\r\n"
    yield MismatchCause.BODY_LINE_ENDS, body.replace(b"\r\n", b"\n")
    yield MismatchCause.BODY_LINE_ENDS, body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    yield MismatchCause.BODY_BYTE_ORDER_MARK, body.removeprefix(b"\xef\xbb\xbf")
    yield from _rewritten(body)


def _rewritten(body: bytes) -> list[tuple[MismatchCause, bytes]]:
    """The body as the usual JSON libraries write it, with and without a line feed; nothing if it is no JSON."""
    try:
        return [(cause, form + end) for cause, form in _json_forms(json.loads(body)) for end in (b"", b"\n")]
    except (ValueError, RecursionError):
        return []


def _json_forms(document: object) -> Iterator[tuple[MismatchCause, bytes]]:
    forms: tuple[tuple[MismatchCause, tuple[str, str], int | str | None], ...] = (
        (MismatchCause.BODY_COMPACT, (",", ":"), None),
        (MismatchCause.BODY_SPACED, (", ", ": "), None),
        (MismatchCause.BODY_INDENTED, (",", ": "), 2),
        (MismatchCause.BODY_INDENTED, (",", ": "), 4),
        (MismatchCause.BODY_INDENTED, (",", ": "), "\t"),
    )
    for (cause, separators, indent), ascii_only, sort_keys in product(forms, (False, True), (False, True)):
        text = json.dumps(document, ensure_ascii=ascii_only, sort_keys=sort_keys, separators=separators, indent=indent)
        yield cause, text.encode(errors="surrogatepass")
