"""Secret manifests: JSON, checks on the object, and the keys in it (contract, sections 4 and 5).

Functions that see key material return errors instead of raising: a traceback keeps the locals of its frames.
Only known labels and annotations are decoded, because `kubectl apply` leaves plain values in an annotation.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from provider.ed25519_key import PREFIX as ED25519_PREFIX
from provider.ed25519_key import Ed25519SigningKey
from provider.errors import SecretError, SecretMalformed, SecretMismatch, SecretNotFound, SecretUnavailable
from provider.secret_ref import RESERVED_SUFFIXES, SecretRef
from provider.signing_keys import HmacKey, SigningKey
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot

MAX_BYTES: Final = 1_500_000
"""Bound of a manifest: a Secret holds at most 1 MiB of data, and base64 and metadata come on top."""
MAX_KEYS: Final = 256

_Version = Annotated[str, Meta(max_length=128)]
_Time = Annotated[datetime, Meta(tz=True)]
_Data = Mapping[str, bytes | None]


class _SecretLabels(Struct, frozen=True):
    tenant: str | None = field(default=None, name="oneprotect.io/tenant")
    purpose: str | None = field(default=None, name="oneprotect.io/purpose")


class _SecretAnnotations(Struct, frozen=True):
    previous_expires_at: str | None = field(default=None, name="oneprotect.io/previous-expires-at")


class _SecretMetadata(Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: _Version = ""
    resource_version: _Version = ""
    labels: _SecretLabels | None = None
    annotations: _SecretAnnotations | None = None
    deletion_timestamp: str | None = None


class _SecretManifest(Struct, frozen=True, rename="camel"):
    kind: str
    metadata: _SecretMetadata
    api_version: str = ""
    type: str = "Opaque"
    data: dict[str, bytes | None] | None = None
    string_data: Raw | UnsetType = UNSET

    def __repr__(self) -> str:
        return "_SecretManifest(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


_decoder = msgspec.json.Decoder(_SecretManifest)


def read_manifest(
    body: bytes, ref: SecretRef, *, uid: str = "", resource_version: str = ""
) -> SecretSnapshot | type[SecretError]:
    """Decode, check and parse the Secret that `ref` names. Returns the snapshot, or the error to raise.

    `uid` and `resource_version` are defaults for manifests written by hand.
    """
    manifest = _decode(body)
    if manifest is None:
        return SecretUnavailable
    refusal = _check(manifest, ref)
    if refusal is not None:
        return refusal
    metadata, labels = manifest.metadata, manifest.metadata.labels or _SecretLabels()
    uid, resource_version = metadata.uid or uid, metadata.resource_version or resource_version
    if not uid or not resource_version:
        return SecretUnavailable
    version, data = f"{uid}/{resource_version}", manifest.data or {}
    # Not an error yet: the labels are checked first, so that others learn nothing.
    malformed = manifest.string_data is not UNSET or len(data) > MAX_KEYS
    expires_at = _parse_expiry(metadata.annotations)
    return SecretSnapshot(
        tenant=labels.tenant,
        purpose=labels.purpose,
        version=version,
        secrets={} if malformed else _parse_secrets(data, version, expires_at),
        malformed=malformed,
    )


def _decode(body: bytes) -> _SecretManifest | None:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _check(manifest: _SecretManifest, ref: SecretRef) -> type[SecretError] | None:
    metadata = manifest.metadata
    if (manifest.api_version, manifest.kind) != ("v1", "Secret"):
        return SecretMismatch
    if (metadata.namespace, metadata.name) != (ref.namespace, ref.name):
        return SecretMismatch
    # A token, a TLS key or a registry password must never sign payloads that others choose.
    if manifest.type != "Opaque" and not manifest.type.startswith("oneprotect.io/"):
        return SecretMismatch
    if metadata.deletion_timestamp is not None:
        return SecretNotFound  # its replacement may follow
    return None


def _parse_expiry(annotations: _SecretAnnotations | None) -> datetime | None:
    """Return the end of the rollover (RFC 3339 with an offset); None when it is missing or malformed."""
    try:
        return msgspec.convert(annotations and annotations.previous_expires_at, _Time)
    except msgspec.ValidationError:
        return None


def _parse_secrets(data: _Data, version: str, expires_at: datetime | None) -> dict[str, SigningSecret | None]:
    return {key: _parse_secret(data, key, version, expires_at) for key in data if not key.endswith(RESERVED_SUFFIXES)}


def _parse_secret(data: _Data, key: str, version: str, expires_at: datetime | None) -> SigningSecret | None:
    """Return current and previous key. A previous key with any fault is left out."""
    current, previous = _parse_key(data[key]), _parse_key(data.get(f"{key}.previous"))
    if current is None:
        return None
    if previous is not None and expires_at is not None and not previous.signs_like(current):
        return SigningSecret(current=current, version=version, previous=previous, previous_expires_at=expires_at)
    return SigningSecret(current=current, version=version, rollover_misconfigured=f"{key}.previous" in data)


def _parse_key(material: bytes | None) -> SigningKey | None:
    text = material or b""
    try:
        return Ed25519SigningKey(text) if text.startswith(ED25519_PREFIX) else HmacKey(text)
    except SecretMalformed:
        return None
