"""Masked and readable parts of logs."""

import base64
import hashlib
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import new_delivery_id, new_replay_id
from telemetry.redaction import MASK, plain, scrub


def key_of(seed: int, size: int) -> bytes:
    """Return evenly spread bytes like a real key's, unlike those of hypothesis."""
    return hashlib.sha512(str(seed).encode()).digest()[:size]


KEYS = st.builds(key_of, st.integers(0, 2**64), st.integers(24, 64))
BEFORE = st.sampled_from(["", " ", "key=", '"', "(", "secret: ", "\n"])
AFTER = st.sampled_from(["", " ", ",", '"', ")", ".", "\n"])


@given(KEYS, BEFORE, AFTER)
def test_signing_secrets_are_masked(key: bytes, before: str, after: str) -> None:
    """A `whsec_` or `whsk_` secret is masked in any context, and its prefix stays."""
    encoded = base64.b64encode(key).decode()

    assert scrub(f"{before}whsec_{encoded}{after}") == f"{before}whsec_{MASK}{after}"
    assert scrub(f"{before}whsk_{encoded}{after}") == f"{before}whsk_{MASK}{after}"


@given(KEYS, BEFORE, AFTER)
def test_encoded_keys_are_masked(key: bytes, before: str, after: str) -> None:
    """A key's base64, base64url and hex forms go, even without a prefix."""
    forms = [base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode(), key.hex().upper().encode()]

    for form in forms:
        assert scrub(f"{before}{form.decode()}{after}") == f"{before}{MASK}{after}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {MASK}"),
        ("authorization: bearer  x;y", f"authorization: bearer {MASK};y"),
        ("token eyJhbGciOiJub25l.eyJzdWIiOiJ4In0.c2ln!", f"token {MASK}!"),
        ("webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", f"webhook-signature: v1,{MASK}"),
        ("whsec_c2hvcnQ=", f"whsec_{MASK}"),
    ],
)
def test_credentials_are_masked(text: str, expected: str) -> None:
    """Bearer tokens, JWTs, signatures and short secrets are masked, and the text around them stays."""
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "destination.disabled",
        "oneprotect.delivery.requested.acme.orders",
        "a-delivery-that-somebody-named-with-many-words-2026",
        "consumers/delivery.py and provider/kubernetes.py were read",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "127.0.0.1:4222 answered in 0.25 s",
        f"{uuid.UUID(int=2**127)}/123456789",
        pytest.param(new_delivery_id(), id="delivery id"),
        pytest.param(f"acme.orders.{new_delivery_id()}.a2", id="attempt id"),
        pytest.param(new_replay_id(), id="replay id"),
        "whsec_ and base64",
        "",
    ],
)
def test_plain_text_stays(text: str) -> None:
    """Subjects, ids, versions, trace ids and sentences stay as they are."""
    assert scrub(text) == text


@given(st.text() | KEYS.map(lambda key: base64.b64encode(key).decode()))
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    """A second redaction changes nothing."""
    assert scrub(scrub(text)) == scrub(text)


class Secretive:
    """An object whose text forms show a secret."""

    def __repr__(self) -> str:
        return "canary"


def test_objects_are_shown_by_type() -> None:
    """Objects other than plain data show only their type; containers are searched with their keys."""
    value = {
        "whsec_Y2FuYXJ5": [Secretive(), b"canary", ValueError("canary"), None, True, 1.5, 2**70],
        1: ({"Bearer canary"}, datetime(2026, 1, 1, tzinfo=UTC), "\ud800"),
    }

    assert plain(value) == {
        f"whsec_{MASK}": ["<Secretive>", "<bytes>", "<ValueError>", None, True, 1.5, str(2**70)],
        "1": [[f"Bearer {MASK}"], "2026-01-01 00:00:00+00:00", "?"],
    }


def test_endless_containers_end() -> None:
    """A container that contains itself is cut off."""
    endless: list[object] = []
    endless.append(endless)

    assert "<list>" in str(plain(endless))
