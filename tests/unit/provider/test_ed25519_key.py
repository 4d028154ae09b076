"""Ed25519 keys: they sign as the scheme `v1a` does, and are malformed at the least doubt."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from provider.ed25519_key import Ed25519SigningKey
from provider.errors import SecretMalformed
from tests.kubernetes.canary import locals_in_provider, shows
from tests.kubernetes.manifests import ED25519_KEY, ED25519_PUBLIC_KEY, KEY

HALVES = base64.b64decode(ED25519_KEY.removeprefix(b"whsk_"))


def whsk(halves: bytes) -> bytes:
    return b"whsk_" + base64.b64encode(halves)


def test_a_key_signs_as_the_published_vector() -> None:
    """The signature is the one that others have published for this key and this body."""
    key = Ed25519SigningKey(ED25519_KEY)

    signed = key.sign(b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}')

    assert base64.b64encode(signed).decode() == (
        "hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    )
    assert HALVES[32:] == base64.b64decode(ED25519_PUBLIC_KEY.removeprefix("whpk_"))


def test_a_key_signs_as_the_rfc() -> None:
    """The third vector of RFC 8032, section 7.1."""
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")

    signed = Ed25519SigningKey(whsk(seed + public)).sign(b"\xaf\x82")

    assert signed.hex() == (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_the_public_half_verifies_and_another_does_not(seed: bytes, message: bytes) -> None:
    """For any key and message; and it signs the same each time."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key = Ed25519SigningKey(whsk(seed + public))

    signed = key.sign(message)

    Ed25519PublicKey.from_public_bytes(public).verify(signed, message)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signed, message + b"x")
    assert key.sign(message) == signed


@pytest.mark.parametrize(
    "material",
    [
        b"",
        KEY,
        HALVES,
        b"whsk_",
        b"whsk_not base64!",
        whsk(HALVES[:32]),
        whsk(HALVES[:63]),
        whsk(HALVES + b"\0"),
        whsk(HALVES[32:] + HALVES[:32]),
        whsk(HALVES[:63] + bytes([HALVES[63] ^ 1])),
        whsk(bytes([HALVES[0] ^ 1]) + HALVES[1:]),
        ED25519_KEY + b"\n",
        b" " + ED25519_KEY,
        ED25519_KEY.rstrip(b"="),
        ED25519_KEY.replace(b"/", b"_"),
        b"whpk_" + ED25519_KEY[5:],
    ],
    ids=range(16),
)
def test_whatever_else_is_malformed(material: bytes) -> None:
    """Halves that do not belong together above all; and the error's frames keep nothing of it."""
    with pytest.raises(SecretMalformed) as refused:
        Ed25519SigningKey(material)

    assert refused.value.__context__ is None
    assert len(material) < 12 or not shows(locals_in_provider(refused.value), material)


def test_the_library_is_imported_only_for_such_a_key() -> None:
    """The import would slow the start of every process."""
    script = (
        "import sys\n"
        "from tests.kubernetes.manifests import ED25519_KEY, KEY, encoded, manifest\n"
        "from provider.secret_manifest import read_manifest\n"
        "from provider.secret_ref import SecretRef\n"
        "ref = SecretRef.parse('k8s://webhooks/acme-signing/signing')\n"
        "for key in (KEY, ED25519_KEY):\n"
        "    read_manifest(encoded(manifest(data={'signing': key})), ref)\n"
        "    print('cryptography' in sys.modules)\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )

    assert (run.stdout, run.stderr) == ("False\nTrue\n", "")
