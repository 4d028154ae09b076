"""Secret manifests: which objects may sign, for whom, and with how many keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provider import secret_manifest
from provider.errors import (
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretUnavailable,
)
from provider.secret_manifest import MAX_KEYS, read_manifest
from provider.secret_ref import SecretRef
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose
from tests.kubernetes.manifests import (
    ED25519_KEY,
    EXPIRES_AT,
    KEY,
    OTHER_KEY,
    PURPOSE_LABEL,
    TENANT_LABEL,
    encoded,
    manifest,
)
from tests.support.signing import sign_with

REF = SecretRef.parse("k8s://webhooks/acme-signing/signing")
NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
SOON = "2026-12-01T00:00:00Z"


def read(document: dict[str, Any] | bytes) -> SecretSnapshot | type[SecretError]:
    return read_manifest(document if isinstance(document, bytes) else encoded(document), REF)


def found(document: dict[str, Any], key: str = "signing") -> SigningSecret | type[SecretError]:
    snapshot = read(document)
    assert isinstance(snapshot, SecretSnapshot)
    return snapshot.find_secret(key, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)


def signing(document: dict[str, Any]) -> SigningSecret:
    secret = found(document)
    assert isinstance(secret, SigningSecret)
    return secret


def slots(secret: SigningSecret) -> list[str]:
    return [signature.slot for signature in sign_with(secret, b"message", NOW)]


def with_metadata(**fields: object) -> dict[str, Any]:
    document = manifest()
    document["metadata"].update(fields)
    return document


def test_a_secret_signs_with_its_key() -> None:
    """The key under the ref's name signs, and the version identifies its object."""
    secret = signing(manifest())

    assert sign_with(secret, b"message", NOW) == [("current", "v1", HmacKey(KEY).sign(b"message"))]
    assert secret.version == "6d1f3a52-0000-4000-8000-000000000001/41"
    assert not secret.rollover_misconfigured


@pytest.mark.parametrize("kind", ["Opaque", "oneprotect.io/signing"])
def test_secrets_of_signing_types_may_sign(kind: str) -> None:
    """Opaque Secrets and Secrets of the product's types may sign."""
    assert slots(signing(manifest(type=kind))) == ["current"]


@pytest.mark.parametrize(
    "kind",
    [
        "kubernetes.io/service-account-token",
        "kubernetes.io/tls",
        "kubernetes.io/dockerconfigjson",
        "bootstrap.kubernetes.io/token",
        "helm.sh/release.v1",
        "opaque",
        "oneprotect.io",
        "",
    ],
)
def test_secrets_of_other_types_never_sign(kind: str) -> None:
    """A token or TLS key must not become a signing key."""
    assert read(manifest(type=kind)) is SecretMismatch


@pytest.mark.parametrize(
    "document",
    [
        manifest(kind="ConfigMap"),
        manifest(kind="SecretList", metadata={"resourceVersion": "1"}, items=[manifest()]),
        manifest(kind="Status", code=200),
        manifest(apiVersion="v2"),
        manifest(apiVersion=""),
        manifest(name="acme-signing-2"),
        manifest(namespace="webhooks-2"),
        with_metadata(namespace=""),
    ],
)
def test_another_object_is_a_mismatch(document: dict[str, Any]) -> None:
    """A proxy may mix up responses, and a wrong object signs nothing."""
    assert read(document) is SecretMismatch


def test_a_secret_under_deletion_is_missing() -> None:
    """A deletion counts from its request."""
    assert read(with_metadata(deletionTimestamp="2026-11-23T19:00:00Z")) is SecretNotFound


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {TENANT_LABEL: "acme"},
        {PURPOSE_LABEL: "webhook-signing"},
        {TENANT_LABEL: "globex", PURPOSE_LABEL: "webhook-signing"},
        {TENANT_LABEL: "Acme", PURPOSE_LABEL: "webhook-signing"},
        {TENANT_LABEL: "acme ", PURPOSE_LABEL: "webhook-signing"},
        {TENANT_LABEL: "acme", PURPOSE_LABEL: "client-tls"},
        {TENANT_LABEL: "acme", PURPOSE_LABEL: ""},
        {"tenant": "acme", "purpose": "webhook-signing"},
    ],
)
def test_the_labels_are_the_owners_consent(labels: dict[str, str]) -> None:
    """Both labels must be there and equal the request."""
    assert found(manifest(labels=labels)) is SecretMismatch


@pytest.mark.parametrize("tenant", ["", None])
@pytest.mark.parametrize(
    "labels", [{PURPOSE_LABEL: "webhook-signing"}, {TENANT_LABEL: "", PURPOSE_LABEL: "webhook-signing"}]
)
def test_no_tenant_owns_nothing(labels: dict[str, str], tenant: Any) -> None:
    """A missing label does not match a missing tenant."""
    snapshot = read(manifest(labels=labels))

    assert isinstance(snapshot, SecretSnapshot)
    assert snapshot.find_secret("signing", tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING) is SecretMismatch


def test_who_is_not_the_owner_learns_nothing_about_the_keys() -> None:
    """Present, absent and malformed keys look the same to others."""
    for document in (
        manifest(data={"signing": KEY, "broken": b"short"}),
        manifest(data={f"key-{number}": KEY for number in range(MAX_KEYS + 1)}),
        manifest(stringData={"signing": KEY.decode()}),
    ):
        snapshot = read(document)
        assert isinstance(snapshot, SecretSnapshot)
        answers = [
            snapshot.find_secret(key, tenant="globex", purpose=Purpose.WEBHOOK_SIGNING)
            for key in ("signing", "broken", "none")
        ]
        assert answers == [SecretMismatch] * 3


@pytest.mark.parametrize(
    ("key", "error"),
    [("other", SecretNotFound), ("Signing", SecretNotFound), ("short", SecretMalformed), ("empty", SecretMalformed)],
)
def test_a_key_must_exist_and_be_valid(key: str, error: type[SecretError]) -> None:
    """Missing and malformed keys have their own codes, and neither affects other keys."""
    document = manifest(data={"signing": KEY, "short": b"whsec_abcd", "empty": b""})

    assert found(document, key) is error
    assert isinstance(found(document), SigningSecret)


def test_a_key_that_is_null_is_malformed() -> None:
    """That is how the API server writes a value of no bytes."""
    assert found(manifest() | {"data": {"signing": None}}) is SecretMalformed


@pytest.mark.parametrize("data", [None, {}])
def test_a_secret_without_data_has_no_key(data: object) -> None:
    """Such a Secret is valid, and has nothing to sign with."""
    assert found(manifest() | {"data": data}) is SecretNotFound


def test_reserved_slots_are_no_keys() -> None:
    """They only serve the key they belong to, even for a ref that should not exist."""
    document = manifest(data={"signing": KEY, "signing.previous": OTHER_KEY, "signing.next": OTHER_KEY})

    assert found(document, "signing.previous") is SecretNotFound
    assert found(document, "signing.next") is SecretNotFound


def test_the_number_of_keys_is_bounded() -> None:
    """One Secret cannot fill the memory."""
    keys = {f"key-{number}": KEY for number in range(MAX_KEYS)}

    assert isinstance(found(manifest(data=keys), "key-7"), SigningSecret)
    assert found(manifest(data=keys | {"signing": KEY})) is SecretMalformed


def test_plain_values_in_a_manifest_are_refused() -> None:
    """`stringData` is refused, because its values were neither encoded nor checked."""
    assert found(manifest(stringData={"signing": KEY.decode()})) is SecretMalformed


@pytest.mark.parametrize("expires_at", [SOON, "2026-12-01T01:30:00.5+01:30", "2026-11-30 23:00:00-01:00"])
def test_both_keys_sign_during_a_rollover(expires_at: str) -> None:
    """The annotation sets the end, with any UTC offset."""
    data = {"signing": KEY, "signing.previous": OTHER_KEY}
    secret = signing(manifest(data=data, annotations={EXPIRES_AT: expires_at}))

    assert sign_with(secret, b"message", NOW) == [
        ("current", "v1", HmacKey(KEY).sign(b"message")),
        ("previous", "v1", HmacKey(OTHER_KEY).sign(b"message")),
    ]
    assert secret.previous_expires_at is not None
    assert abs(secret.previous_expires_at - datetime(2026, 12, 1, tzinfo=UTC)) < timedelta(seconds=1)
    assert not secret.rollover_misconfigured


@pytest.mark.parametrize(
    "expires_at",
    [
        None,
        "",
        "soon",
        "2026-12-01",
        "2026-12-01T00:00:00",
        "2026-12-01T00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-12-01T24:00:00Z",
        " 2026-12-01T00:00:00Z",
        "2026-12-01T00:00:00Z\n",
        "20261201T000000Z",
        "1796083200",
    ],
)
def test_a_previous_key_without_a_certain_end_is_left_out(expires_at: str | None) -> None:
    """No expiry, or one that leaves room for doubt, means one key, and is reported."""
    data = {"signing": KEY, "signing.previous": OTHER_KEY}
    annotations = {} if expires_at is None else {EXPIRES_AT: expires_at}
    secret = signing(manifest(data=data, annotations=annotations))

    assert slots(secret) == ["current"]
    assert (secret.rollover_misconfigured, secret.previous_expires_at) == (True, None)


@pytest.mark.parametrize("previous", [b"", b"short", b"whsk_" + KEY[6:], KEY + b"\n", KEY])
def test_an_unusable_previous_key_is_ignored(previous: bytes) -> None:
    """The current key signs alone and once, and the result reports the mistake."""
    data = {"signing": KEY, "signing.previous": previous}
    secret = signing(manifest(data=data, annotations={EXPIRES_AT: SOON}))

    assert slots(secret) == ["current"]
    assert secret.rollover_misconfigured


def test_the_same_key_in_another_spelling_is_the_same() -> None:
    """Raw or in base64, it would sign twice the same."""
    raw = bytes(range(1, 33))
    secret = signing(manifest(data={"signing": KEY, "signing.previous": raw}, annotations={EXPIRES_AT: SOON}))

    assert slots(secret) == ["current"]
    assert secret.rollover_misconfigured


@pytest.mark.parametrize(
    ("current", "previous", "schemes"),
    [(ED25519_KEY, KEY, ["v1a", "v1"]), (KEY, ED25519_KEY, ["v1", "v1a"]), (ED25519_KEY, b"", ["v1a"])],
)
def test_each_slot_has_the_scheme_of_its_key(current: bytes, previous: bytes, schemes: list[str]) -> None:
    """So that receivers can move from one to the other."""
    data = {"signing": current, "signing.previous": previous}
    secret = signing(manifest(data=data, annotations={EXPIRES_AT: SOON}))

    assert [signature.scheme for signature in sign_with(secret, b"message", NOW)] == schemes


def test_the_same_ed25519_key_is_no_rollover() -> None:
    """It would sign twice the same."""
    data = {"signing": ED25519_KEY, "signing.previous": ED25519_KEY}
    secret = signing(manifest(data=data, annotations={EXPIRES_AT: SOON}))

    assert (slots(secret), secret.rollover_misconfigured) == (["current"], True)


def test_an_ed25519_key_whose_halves_do_not_match_is_malformed() -> None:
    """Its receivers would verify with another key than the signing one."""
    assert found(manifest(data={"signing": ED25519_KEY[:-8] + b"AAAAAA=="})) is SecretMalformed


def test_a_decoded_manifest_shows_nothing() -> None:
    """Not even to a debugger's pretty printer."""
    decoded = secret_manifest._decode(encoded(manifest()))  # pyright: ignore[reportPrivateUsage] - it never leaves there

    assert repr(decoded) == "_SecretManifest(...)"
    assert decoded is not None
    assert decoded.__rich_repr__() == []


def test_a_malformed_current_key_is_not_replaced_by_the_previous_one() -> None:
    """The previous key alone never signs."""
    data = {"signing": b"short", "signing.previous": OTHER_KEY}

    assert found(manifest(data=data, annotations={EXPIRES_AT: SOON})) is SecretMalformed


def test_an_annotation_that_stayed_behind_is_no_misconfiguration() -> None:
    """After a rollover, only the previous key has to be removed."""
    secret = signing(manifest(annotations={EXPIRES_AT: SOON}))

    assert (secret.rollover_misconfigured, secret.previous_expires_at) == (False, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"Secret"',
        b"Unauthorized",
        b"<html></html>",
        encoded(manifest())[:200],
        encoded(manifest()) + b"{}",
        encoded(manifest()).replace(b"acme-signing", b"acme-signing\xff"),
        b"[" * 100_000,
        encoded(manifest())[:-1] + b', "x": ' + b"[" * 100_000,
        encoded({"kind": "Secret", "apiVersion": "v1"}),
        encoded(manifest() | {"metadata": None}),
        encoded(with_metadata(uid="")),
        encoded(with_metadata(resourceVersion="")),
        encoded(with_metadata(resourceVersion="1" * 129)),
        encoded(with_metadata(labels={TENANT_LABEL: 7})),
        encoded(with_metadata(labels=[])),
        encoded(manifest() | {"data": {"signing": "not base64"}}),
        encoded(manifest() | {"data": {"signing": "QUJD\n"}}),
        encoded(manifest() | {"data": {"signing": "QUI"}}),
        encoded(manifest() | {"data": {"signing": 7}}),
    ],
    ids=range(23),
)
def test_an_unreadable_body_is_no_answer(body: bytes) -> None:
    """A broken body is neither an empty Secret nor a foreign exception."""
    assert read(body) is SecretUnavailable


def test_a_local_manifest_needs_no_uid_and_version() -> None:
    """The provider's own uid and version replace missing ones."""
    document = with_metadata(uid="", resourceVersion="")

    snapshot = read_manifest(encoded(document), REF, uid="local", resource_version="7")

    assert isinstance(snapshot, SecretSnapshot)
    assert snapshot.version == "local/7"
