"""Signatures against the reference library, over any body and key."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook

from consumers.signatures.signer import sign
from consumers.signatures.verifier import VerifiedPart, verify
from provider.ed25519_key import Ed25519SigningKey
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret

KEYS = st.binary(min_size=24, max_size=64)
SEEDS = st.binary(min_size=32, max_size=32)
DELIVERIES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  bounds are naive


def whsec(key: bytes) -> str:
    """A key as text."""
    return "whsec_" + base64.b64encode(key).decode()


@given(KEYS, KEYS, DELIVERIES, st.text(max_size=200), TIMES)
def test_the_reference_library_computes_the_same(
    key: bytes, previous: bytes, delivery: str, body: str, now: datetime
) -> None:
    """For any keys, id, time and text, both signatures are the reference library's."""
    secret = SigningSecret(
        current=HmacKey(whsec(key).encode()),
        version="uid/1",
        previous=HmacKey(whsec(previous).encode()),
        previous_expires_at=now + timedelta(seconds=1),
    )

    signed = sign(secret, delivery=delivery, body=body.encode(), now=now)

    expected = [Webhook(whsec(one)).sign(delivery, now, body) for one in (key, previous)]
    assert signed.signature.split(" ") == expected
    assert expected == [SvixWebhook(whsec(one)).sign(delivery, now, body) for one in (key, previous)]


@given(SEEDS, KEYS, DELIVERIES, st.binary(max_size=200), TIMES)
def test_the_second_scheme_is_ed25519_of_the_same_bytes(
    seed: bytes, previous: bytes, delivery: str, body: bytes, now: datetime
) -> None:
    """The public key verifies it, `verify` does with either key, and neither does once a byte has changed."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    secret = SigningSecret(
        current=Ed25519SigningKey(b"whsk_" + base64.b64encode(seed + public.public_bytes_raw())),
        version="uid/1",
        previous=HmacKey(whsec(previous).encode()),
        previous_expires_at=now + timedelta(seconds=1),
    )
    whpk = "whpk_" + base64.b64encode(public.public_bytes_raw()).decode()

    signed = sign(secret, delivery=delivery, body=body, now=now)

    scheme, signature = signed.signature.split(" ")[0].split(",")
    public.verify(base64.b64decode(signature), f"{delivery}.{signed.timestamp}.".encode() + body)
    assert (scheme, signed.slots) == ("v1a", ("current", "previous"))
    headers = {"webhook-id": delivery, "webhook-timestamp": signed.timestamp, "webhook-signature": signed.signature}
    for known in ([whpk], [whsec(previous)], [whsec(previous), whpk]):
        assert verify(known, headers=headers, body=body, now=now).valid
        assert not verify(known, headers=headers, body=body + b"x", now=now).valid


@given(KEYS, DELIVERIES, st.binary(max_size=200), TIMES)
def test_a_signed_body_verifies_and_an_altered_one_does_not(
    key: bytes, delivery: str, body: bytes, now: datetime
) -> None:
    """`verify` accepts any signed body, and refuses it with one more byte."""
    secret = SigningSecret(current=HmacKey(whsec(key).encode()), version="uid/1")
    signed = sign(secret, delivery=delivery, body=body, now=now)
    headers = {
        "webhook-id": delivery,
        "webhook-timestamp": signed.timestamp,
        "webhook-signature": signed.signature,
    }
    middle = len(body) // 2

    assert verify([whsec(key)], headers=headers, body=body, now=now).valid
    altered = verify([whsec(key)], headers=headers, body=body[:middle] + b"\x00" + body[middle:], now=now)
    assert [check.part for check in altered.checks if not check.ok] == [VerifiedPart.SIGNATURE]


@given(
    st.lists(st.text(max_size=80) | SEEDS.map(lambda key: "whpk_" + base64.b64encode(key).decode()), max_size=3),
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.text(max_size=40)
        | KEYS.map(lambda digest: "v1," + base64.b64encode(digest).decode())
        | KEYS.map(lambda digest: "v1a," + base64.b64encode(digest).decode()),
    ),
    st.binary(max_size=40),
)
def test_verifying_never_raises(secrets: list[str], headers: dict[str, str], body: bytes) -> None:
    """Whatever is pasted into it, there is a finding, and it is not that the request is genuine."""
    found = verify(secrets, headers=headers, body=body, now=datetime(2026, 1, 1, tzinfo=UTC))

    assert not found.valid
