"""Properties of keys, against the standard library's HMAC and a reading of the rules by other means."""

import base64
import hmac
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provider.errors import SecretMalformed
from provider.secret_manifest import read_manifest
from provider.signing_keys import HmacKey
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose
from tests.kubernetes.manifests import ED25519_KEY, EXPIRES_AT, KEY, OTHER_KEY, encoded, manifest
from tests.kubernetes.resolving import REF
from tests.support.signing import sign_with

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)

materials = st.one_of(
    st.binary(max_size=80),
    st.text(st.characters(codec="ascii"), max_size=80).map(str.encode),
    st.binary(max_size=80).map(lambda raw: b"whsec_" + base64.b64encode(raw)),
    st.text(max_size=100).map(lambda text: b"whsec_" + text.encode(errors="surrogatepass")),
)


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""What is tested is no speed, and the machine may be busy."""


def key_of(material: bytes) -> HmacKey | None:
    try:
        return HmacKey(material)
    except SecretMalformed:
        return None


@unhurried
@given(st.binary(min_size=24, max_size=64), st.binary(max_size=300))
def test_signing_is_hmac_sha256(key: bytes, message: bytes) -> None:
    """Whichever way the key is written, and however often it has signed."""
    signing_key = HmacKey(b"whsec_" + base64.b64encode(key))

    first, second = signing_key.sign(message), signing_key.sign(message)

    assert first == second == hmac.digest(key, message, "sha256")


@unhurried
@given(materials)
@example(b"whsec_" + b"QUFB" * 8 + b"=")
@example(b" " * 24)
@example(b"\x80" + b" " * 24)
def test_a_key_equals_its_material_or_is_refused(material: bytes) -> None:
    """Nothing is dropped or added between material and key."""
    key = key_of(material)

    if key is None:
        return
    if material.startswith(b"whsec_"):
        decoded = base64.b64decode(material[6:])
        written = base64.b64encode(decoded)
        # The last character may carry bits beyond the last byte; every decoder drops those.
        assert (len(written), written[:-3]) == (len(material) - 6, material[6:-3])
    else:
        decoded = material
        assert not material.isascii() or material == material.strip() or any(byte < 32 for byte in material.strip())
    assert 24 <= len(decoded) <= 64
    assert key.sign(b"message") == hmac.digest(decoded, b"message", "sha256")


@unhurried
@given(
    current=st.sampled_from([KEY, ED25519_KEY]),
    previous=st.sampled_from([None, b"", b"short", KEY, OTHER_KEY, ED25519_KEY]),
    expires_in_s=st.one_of(st.none(), st.integers(-5_000_000, 5_000_000)),
    offset_minutes=st.integers(-1439, 1439),
)
@example(KEY, OTHER_KEY, 30 * 86_400, 0)
@example(KEY, OTHER_KEY, 30 * 86_400 + 1, 0)
@example(KEY, OTHER_KEY, 0, 90)
def test_the_previous_key_signs_exactly_during_a_rollover(
    current: bytes, previous: bytes | None, expires_in_s: int | None, offset_minutes: int
) -> None:
    """The reported rollover equals the signatures for all cases of keys, expiry and time."""
    annotations: dict[str, str] = {}
    if expires_in_s is not None:
        minutes = timedelta(minutes=abs(offset_minutes))
        sign = "-" if offset_minutes < 0 else "+"
        local = NOW + timedelta(seconds=expires_in_s) + (-minutes if offset_minutes < 0 else minutes)
        hours, rest = divmod(abs(offset_minutes), 60)
        annotations[EXPIRES_AT] = f"{local:%Y-%m-%dT%H:%M:%S}{sign}{hours:02}:{rest:02}"
    data = {"signing": current} if previous is None else {"signing": current, "signing.previous": previous}
    snapshot = read_manifest(encoded(manifest(data=data, annotations=annotations)), REF)
    assert isinstance(snapshot, SecretSnapshot)

    secret = snapshot.require_secret("signing", tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)

    usable = previous in {KEY, OTHER_KEY, ED25519_KEY} - {current} and expires_in_s is not None
    valid = usable and expires_in_s is not None and 0 < expires_in_s <= 30 * 86_400
    too_far = usable and expires_in_s is not None and expires_in_s > 30 * 86_400
    rollover = secret.describe_rollover(NOW)
    assert [signature.slot for signature in sign_with(secret, b"", NOW)] == ["current", "previous"][: 2 if valid else 1]
    assert (rollover.active, rollover.expires_at is not None) == (valid, usable)
    assert rollover.misconfigured is ((previous is not None and not usable) or too_far)
    assert secret.rollover_misconfigured is (previous is not None and not usable)
