"""Secret manifests: their JSON, the checks on the object, and the keys in it (contract, sections 4 and 5).

What may hold key material is returned here and never raised through: an exception's traceback keeps its frames, and a
frame keeps its locals. Only the labels and the annotation we know are decoded; the rest of them is not safe to hold, as
`kubectl apply` leaves plain values in an annotation.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from provider.ed25519_key import PREFIX as ED25519_PREFIX
from provider.ed25519_key import Ed25519SigningKey
from provider.errors import (
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretUnavailable,
)
from provider.secret_ref import RESERVED_SUFFIXES, SecretRef
from provider.signing_keys import HmacKey, SigningKey, SigningSecret
from provider.snapshot import SecretSnapshot

MAX_BYTES: Final = 1_500_000
"""A Secret holds at most 1 MiB of data; base64 and metadata come on top."""
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
        return "_Manifest(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


_decoder = msgspec.json.Decoder(_SecretManifest)


def read_manifest(
    body: bytes, ref: SecretRef, *, uid: str = "", resource_version: str = ""
) -> SecretSnapshot | type[SecretError]:
    """Decode the Secret that `ref` names, check it, and parse its keys; or give the error to raise.

    `uid` and `resource_version` stand in where the manifest has none, as in one written by hand.
    """
    manifest = _decoded(body)
    if manifest is None:
        return SecretUnavailable
    refusal = _refusal(manifest, ref)
    if refusal is not None:
        return refusal
    metadata, labels = manifest.metadata, manifest.metadata.labels or _SecretLabels()
    uid, resource_version = metadata.uid or uid, metadata.resource_version or resource_version
    if not uid or not resource_version:
        return SecretUnavailable
    version = f"{uid}/{resource_version}"
    return SecretSnapshot(
        tenant=labels.tenant,
        purpose=labels.purpose,
        version=version,
        secrets=_secrets(manifest.data or {}, version, _expiry(metadata.annotations or _SecretAnnotations())),
    )


def _decoded(body: bytes) -> _SecretManifest | None:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _refusal(manifest: _SecretManifest, ref: SecretRef) -> type[SecretError] | None:
    metadata = manifest.metadata
    if (manifest.api_version, manifest.kind) != ("v1", "Secret"):
        return SecretMismatch
    if (metadata.namespace, metadata.name) != (ref.namespace, ref.name):
        return SecretMismatch
    # A token, a TLS key or a registry's password must never become a key that signs what others choose.
    if manifest.type != "Opaque" and not manifest.type.startswith("oneprotect.io/"):
        return SecretMismatch
    if metadata.deletion_timestamp is not None:
        return SecretNotFound  # as good as gone; its successor may be on the way
    if manifest.string_data is not UNSET or len(manifest.data or {}) > MAX_KEYS:
        return SecretMalformed
    return None


def _expiry(annotations: _SecretAnnotations) -> datetime | None:
    """When the previous keys end, from RFC 3339 with an offset; None when it says nothing that can be relied on."""
    try:
        return msgspec.convert(annotations.previous_expires_at, _Time)
    except msgspec.ValidationError:
        return None


def _secrets(data: _Data, version: str, expires_at: datetime | None) -> dict[str, SigningSecret | None]:
    return {key: _secret(data, key, version, expires_at) for key in data if not key.endswith(RESERVED_SUFFIXES)}


def _secret(data: _Data, key: str, version: str, expires_at: datetime | None) -> SigningSecret | None:
    """The key and its previous one. Whatever is wrong with the previous one, there is one key fewer, never one more."""
    current, previous = _key(data[key]), _key(data.get(f"{key}.previous"))
    if current is None:
        return None
    if previous is not None and expires_at is not None and not previous.signs_like(current):
        return SigningSecret(current=current, version=version, previous=previous, previous_expires_at=expires_at)
    return SigningSecret(current=current, version=version, rollover_misconfigured=f"{key}.previous" in data)


def _key(material: bytes | None) -> SigningKey | None:
    """The key, whose prefix says which scheme it is for."""
    text = material or b""
    try:
        return Ed25519SigningKey(text) if text.startswith(ED25519_PREFIX) else HmacKey(text)
    except SecretMalformed:
        return None
