"""Signatures against the vectors of the specification and of other implementations."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError

from consumers.signatures.signer import SignedHeaders, sign
from provider.ed25519_key import Ed25519SigningKey
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret
from tests.kubernetes.manifests import ED25519_KEY

DELIVERY = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
NOW = datetime.fromtimestamp(TIMESTAMP, UTC)
BODY = b'{"test": 2432232314}'
OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def secret_of(current: str, previous: str | None = None, *, lasts_s: float = 3600) -> SigningSecret:
    """Return a signing secret whose previous key, if any, lasts that long from `NOW`."""
    return SigningSecret(
        current=HmacKey(current.encode()),
        version="uid/1",
        previous=HmacKey(previous.encode()) if previous else None,
        previous_expires_at=NOW + timedelta(seconds=lasts_s) if previous else None,
    )


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (b"", "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A="),
        ('{"n":"Zoë ☃"}'.encode(), "v1,Oyrrljv3Vb2xCfd8mXX4m0zOm5JFGUzVNTkaYXHOz9M="),
    ],
)
def test_signatures_match_the_vectors(body: bytes, signature: str) -> None:
    """The official vector, an empty body and a body that is not ASCII."""
    signed = sign(secret_of(OLD), delivery=DELIVERY, body=body, now=NOW)

    assert signed == SignedHeaders("1614265330", signature, ("current",))


def test_during_a_rollover_both_keys_sign_the_current_one_first() -> None:
    """A space separates the signatures, and receivers of either secret accept the header."""
    signed = sign(secret_of(NEW, OLD), delivery=DELIVERY, body=BODY, now=NOW)

    assert signed.slots == ("current", "previous")
    assert signed.signature == (
        "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_an_ed25519_signature_has_its_scheme() -> None:
    """The published signature of the published key, beside that of an HMAC key that is being replaced."""
    secret = SigningSecret(
        current=Ed25519SigningKey(ED25519_KEY),
        version="uid/1",
        previous=HmacKey(OLD.encode()),
        previous_expires_at=NOW + timedelta(hours=1),
    )

    signed = sign(secret, delivery=DELIVERY, body=BODY, now=NOW)

    assert signed.slots == ("current", "previous")
    assert signed.signature.split(" ") == [
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ]


@pytest.mark.parametrize("library", [Webhook, SvixWebhook])
def test_receivers_skip_other_schemes(library: type[Webhook] | type[SvixWebhook]) -> None:
    """Both libraries find the signature of their key among others."""
    now = datetime.now(UTC)
    secret = SigningSecret(
        current=Ed25519SigningKey(ED25519_KEY),
        version="uid/1",
        previous=HmacKey(OLD.encode()),
        previous_expires_at=now + timedelta(hours=1),
    )

    signed = sign(secret, delivery=DELIVERY, body=BODY, now=now)

    headers = {
        "webhook-id": DELIVERY,
        "webhook-timestamp": signed.timestamp,
        "webhook-signature": signed.signature,
    }
    library(OLD).verify(BODY, headers)
    with pytest.raises((WebhookVerificationError, SvixVerificationError)):
        library(NEW).verify(BODY, headers)


@pytest.mark.parametrize("lasts_s", [0, -1, 31 * 86_400])
def test_an_expired_previous_key_does_not_sign(lasts_s: float) -> None:
    """Nor does one that expires more than 30 days ahead."""
    signed = sign(secret_of(NEW, OLD, lasts_s=lasts_s), delivery=DELIVERY, body=BODY, now=NOW)

    assert signed == SignedHeaders("1614265330", "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44=", ("current",))


def test_the_timestamp_has_whole_seconds() -> None:
    """Fractions are cut off, and the time zone does not matter."""
    elsewhere = NOW.astimezone(tz=None) + timedelta(microseconds=999_999)

    signed = sign(secret_of(OLD), delivery=DELIVERY, body=b"", now=elsewhere)

    assert signed.timestamp == "1614265330"


@pytest.mark.parametrize("delivery", ["a.b", ".", "dlv_1.2"])
def test_a_delivery_id_with_a_full_stop_is_not_signed(delivery: str) -> None:
    """Otherwise `a.1` at `2` would have the signature of `a` at `1.2`."""
    with pytest.raises(ValueError, match="full stop"):
        sign(secret_of(OLD), delivery=delivery, body=b"", now=NOW)


def test_an_independent_verifier_accepts_a_signature() -> None:
    """The reference library accepts a signature made now."""
    now = datetime.now(UTC)
    body = b'{"a": 1}'

    signed = sign(secret_of(OLD), delivery=DELIVERY, body=body, now=now)

    headers = {
        "webhook-id": DELIVERY,
        "webhook-timestamp": signed.timestamp,
        "webhook-signature": signed.signature,
    }
    assert Webhook(OLD).verify(body, headers) == {"a": 1}
