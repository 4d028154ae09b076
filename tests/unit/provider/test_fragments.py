"""Fragments of keys, by which an echo is recognized."""

import base64
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider.ed25519_key import Ed25519SigningKey
from provider.fragments import FRAGMENT, GROUP, LETTERS_ONLY, UNSPACED, HashedBytes, Pieces, find_groups, fragments_of
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret

RAW = bytes(range(200, 232))
KEY = b"whsec_" + base64.b64encode(RAW)


def pieces(read: bytes, size: int) -> set[bytes]:
    """Return all pieces of `size` bytes."""
    return {read[at : at + size] for at in range(len(read) - size + 1)}


def test_a_key_has_the_fragments_and_groups_of_its_text_and_of_its_bytes() -> None:
    """An echo may be of either."""
    reads = (KEY.translate(*LETTERS_ONLY), RAW.translate(*UNSPACED))
    expected = {hash(piece) for read in reads for size in (FRAGMENT, GROUP) for piece in pieces(read, size)}

    assert set(HmacKey(KEY).fragments) == expected


def test_a_hash_equals_the_bytes_that_it_is_the_hash_of() -> None:
    """So one set holds known bytes and hashes of unknown ones."""
    known: Pieces = frozenset({HashedBytes(hash(b"corr")), b"hors"})

    assert find_groups(b"corr-hors", known) == [0, 5]
    assert find_groups(b"cor--hor-", known) == []


def test_symbols_are_left_out_unless_little_else_remains() -> None:
    """Separators hide no word, and a key of symbols has fragments."""
    assert list(fragments_of(b"correct-horse-battery")) == list(fragments_of(b"CORRECT HORSE BATTERY"))
    assert len(fragments_of(b"!!??!!??!!")) == 3 + 4
    assert len(fragments_of("пароль-и-ключ".encode())) > 0


def test_a_secret_has_the_fragments_of_both_keys() -> None:
    """Those of an expired key, too."""
    private = Ed25519PrivateKey.generate()
    halves = private.private_bytes_raw() + private.public_key().public_bytes_raw()
    one, other = HmacKey(KEY), Ed25519SigningKey(b"whsk_" + base64.b64encode(halves))
    both = SigningSecret(current=one, previous=other, previous_expires_at=datetime(2000, 1, 1, tzinfo=UTC), version="1")

    assert set(both.fragments()) == {*one.fragments, *other.fragments}
    assert set(SigningSecret(current=one, version="1").fragments()) == set(one.fragments)
