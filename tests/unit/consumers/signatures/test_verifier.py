"""Verification of a received request."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from consumers.signatures.signer import sign
from consumers.signatures.verifier import MismatchCause, VerificationResult, VerificationStep, VerifiedPart, verify
from provider.ed25519_key import Ed25519SigningKey
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret
from tests.kubernetes.manifests import ED25519_KEY, ED25519_PUBLIC_KEY

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = "whsec_" + base64.b64encode(KEY[::-1]).decode()
PUBLIC = ED25519_PUBLIC_KEY
OTHER_PUBLIC = "whpk_" + base64.b64encode(KEY).decode()
BODY = b'{"n": 1, "a": ["Zo\xc3\xab", {"b": null}]}'


def signed_headers(body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery of `body`."""
    signing = SigningSecret(current=HmacKey(secret.encode()), version="uid/1")
    signed = sign(signing, delivery="dlv_1", body=body, now=NOW)
    return {
        "Webhook-Id": "dlv_1",
        "Webhook-Timestamp": signed.timestamp,
        "Webhook-Signature": signed.signature,
        "Content-Type": "application/json",
    }


def headers_signed_with(key: bytes, body: bytes = BODY) -> dict[str, str]:
    """Return the headers of a sender that signs with `key`."""
    headers = signed_headers()
    message = f"dlv_1.{headers['Webhook-Timestamp']}.".encode() + body
    digest = hmac.digest(key, message, "sha256")
    return headers | {"Webhook-Signature": "v1," + base64.b64encode(digest).decode()}


def failed(found: VerificationResult) -> list[VerifiedPart]:
    """The parts that are not as they have to be."""
    return [check.part for check in found.checks if not check.ok]


def test_a_genuine_request_is_valid() -> None:
    """Every step passes, whatever the case of the headers' names."""
    found = verify([SECRET], headers=signed_headers(), body=BODY, now=NOW)

    assert found.valid
    assert [check.part for check in found.checks] == [
        VerifiedPart.SECRET,
        VerifiedPart.ID,
        VerifiedPart.TIMESTAMP,
        VerifiedPart.SIGNATURE,
    ]
    assert found.cause is None


def test_any_of_several_secrets_and_signatures_is_enough() -> None:
    """A rollover has two of both; signatures of other schemes and unusable secrets do not matter."""
    headers = signed_headers()
    headers["Webhook-Signature"] = f"v1a,AAAA v1,!!! v1,AAAA {signed_headers(secret=OTHER)['Webhook-Signature']}"

    found = verify(["whsec_short", SECRET, OTHER], headers=headers, body=BODY, now=NOW)

    assert found.valid
    assert failed(found) == [VerifiedPart.SECRET]


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_missing_header_is_named(name: str) -> None:
    """A proxy may have dropped it."""
    headers = signed_headers()
    del headers[name]

    found = verify([SECRET], headers=headers, body=BODY, now=NOW)

    assert not found.valid
    assert VerificationStep(VerifiedPart(name.lower()), ok=False, text="this header is missing") in found.checks


@pytest.mark.parametrize(("offset_s", "ok"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_the_timestamp_may_be_five_minutes_off(offset_s: int, ok: bool) -> None:
    """A request outside the tolerance is invalid despite its signature, and the step states the distance."""
    found = verify([SECRET], headers=signed_headers(), body=BODY, now=NOW + timedelta(seconds=offset_s))

    assert found.valid is ok
    assert failed(found) == ([] if ok else [VerifiedPart.TIMESTAMP])
    (check,) = [check for check in found.checks if check.part is VerifiedPart.TIMESTAMP]
    assert f"{abs(offset_s)} s {'old' if offset_s >= 0 else 'ahead'}" in check.text


@pytest.mark.parametrize("timestamp", ["now", "1.5", "-1", "1e9", "\uff11\uff12\uff13", "9" * 13])
def test_a_timestamp_must_be_unix_seconds(timestamp: str) -> None:
    """ISO dates, fractions and milliseconds are invalid."""
    found = verify([SECRET], headers=signed_headers() | {"Webhook-Timestamp": timestamp}, body=BODY, now=NOW)

    assert VerifiedPart.TIMESTAMP in failed(found)


def test_a_timestamp_may_be_beyond_the_calendar() -> None:
    """Microseconds, for example, are a number of seconds that no date has."""
    found = verify([SECRET], headers=signed_headers() | {"Webhook-Timestamp": "9" * 12}, body=BODY, now=NOW)

    (check,) = [check for check in found.checks if check.part is VerifiedPart.TIMESTAMP]
    assert check.text.startswith("beyond the year 9999, ")


def test_an_id_with_a_full_stop_is_invalid() -> None:
    """The signed bytes would be ambiguous."""
    headers = {name: value for name, value in signed_headers().items() if name != "Webhook-Id"}

    found = verify([SECRET], headers=headers | {"Webhook-Id": "dlv.1"}, body=BODY, now=NOW)

    assert VerifiedPart.ID in failed(found)


@pytest.mark.parametrize(
    ("secrets", "wanted"),
    [
        ([SECRET], ["`v1,` signature of 32 bytes"]),
        ([PUBLIC], ["`v1a,` signature of 64 bytes"]),
        ([SECRET, PUBLIC], ["`v1,` signature of 32 bytes", "`v1a,` signature of 64 bytes"]),
        ([f" {PUBLIC}\n"], ["`v1a,` signature of 64 bytes"]),
        ([], ["`v1,` signature of 32 bytes"]),
    ],
)
def test_the_missing_signature_depends_on_the_keys(secrets: list[str], wanted: list[str]) -> None:
    """The step names the scheme that the receiver has a key for."""
    headers = signed_headers() | {"Webhook-Signature": "v1,AAAA v1a,AAAA v2,AAAA"}

    found = verify(secrets, headers=headers, body=BODY, now=NOW)

    assert VerifiedPart.SIGNATURE in failed(found)
    assert found.checks[-1].text == f"it holds no {' in base64 and no '.join(wanted)} in base64"


def headers_of_ed25519(body: bytes = BODY) -> dict[str, str]:
    """The headers of a delivery that is signed with the published Ed25519 key."""
    signing = SigningSecret(current=Ed25519SigningKey(ED25519_KEY), version="uid/1")
    signed = sign(signing, delivery="dlv_1", body=body, now=NOW)
    return signed_headers() | {"Webhook-Signature": signed.signature}


@pytest.mark.parametrize("secrets", [[PUBLIC], [SECRET, PUBLIC], [OTHER_PUBLIC, PUBLIC]])
def test_a_public_key_verifies_ed25519_signatures(secrets: list[str]) -> None:
    """Alone, or beside other secrets."""
    found = verify(secrets, headers=headers_of_ed25519(), body=BODY, now=NOW)

    assert (found.valid, failed(found)) == (True, [])


def test_a_key_verifies_only_its_scheme() -> None:
    """Whatever else is in the header."""
    both = f"{signed_headers()['Webhook-Signature']} {headers_of_ed25519()['Webhook-Signature']}"
    headers = signed_headers() | {"Webhook-Signature": both}

    assert verify([SECRET], headers=headers, body=BODY, now=NOW).valid
    assert verify([PUBLIC], headers=headers, body=BODY, now=NOW).valid
    found = verify([OTHER, OTHER_PUBLIC], headers=headers, body=BODY, now=NOW)
    assert (failed(found), found.cause) == ([VerifiedPart.SIGNATURE], None)


@pytest.mark.parametrize(
    ("sent", "given", "cause"),
    [
        (b'{"a":2,"n":1}', PUBLIC, MismatchCause.BODY_COMPACT),
        (b'{"n": 1, "a": 2}', f"{PUBLIC}\n", MismatchCause.KEY_SPACES),
        (b"something else", PUBLIC, None),
        (b"something else", f"{PUBLIC}A", None),
    ],
)
def test_causes_of_a_differing_ed25519_signature(sent: bytes, given: str, cause: MismatchCause | None) -> None:
    """Changes to the body, and spaces around the key; a public key allows no others."""
    found = verify([given], headers=headers_of_ed25519(sent), body=b'{"n": 1, "a": 2}', now=NOW)

    assert VerifiedPart.SIGNATURE in failed(found)
    assert found.cause is cause


@pytest.mark.parametrize("header", ["v1a,AAAA", "v1,", "v1,!!!!", "v1,AAAA", "g0hM9SsE", "v2,AAAA v1a,AAAA"])
def test_a_header_without_a_v1_signature_is_invalid(header: str) -> None:
    """Another scheme, or a value that is not 32 bytes of base64, is no signature that differs."""
    found = verify([SECRET], headers=signed_headers() | {"Webhook-Signature": header}, body=BODY, now=NOW)

    assert failed(found) == [VerifiedPart.SIGNATURE]
    assert "no `v1,` signature" in found.checks[-1].text
    assert found.cause is None


@pytest.mark.parametrize(
    ("sent", "received", "cause"),
    [
        (b'{"n":1,"a":2}', b'{"n": 1, "a": 2}', MismatchCause.BODY_COMPACT),
        (b'{"a":2,"n":1}', b'{"n": 1, "a": 2}', MismatchCause.BODY_COMPACT),
        (b'{"n": 1, "a": 2}', b'{"n":1,"a":2}', MismatchCause.BODY_SPACED),
        (b'{"n": "Zo\\u00eb"}', b'{"n":"Zo\xc3\xab"}', MismatchCause.BODY_SPACED),
        (b'{\n  "n": 1\n}', b'{"n":1}', MismatchCause.BODY_INDENTED),
        (b'{\n    "n": 1\n}\n', b'{"n":1}', MismatchCause.BODY_INDENTED),
        (b'{\n\t"n": 1\n}', b'{"n":1}', MismatchCause.BODY_INDENTED),
        (b"no json", b"no json\n", MismatchCause.BODY_LINE_FEED_ADDED),
        (b"no json", b"no json\r\n", MismatchCause.BODY_LINE_FEED_ADDED),
        (b"no json\n", b"no json", MismatchCause.BODY_LINE_FEED_LOST),
        (b"no\njson", b"no\r\njson", MismatchCause.BODY_LINE_ENDS),
        (b"no\r\njson", b"no\njson", MismatchCause.BODY_LINE_ENDS),
        (b"no json", b"\xef\xbb\xbfno json", MismatchCause.BODY_BYTE_ORDER_MARK),
    ],
)
def test_a_reserialized_body_is_recognized(sent: bytes, received: bytes, cause: MismatchCause) -> None:
    """A framework's JSON or an editor's line ends explain the signature."""
    found = verify([SECRET], headers=signed_headers(sent), body=received, now=NOW)

    assert failed(found) == [VerifiedPart.SIGNATURE]
    assert found.cause is cause
    assert found.checks[-1].text == cause.value


@pytest.mark.parametrize(
    ("key", "given", "cause"),
    [
        (SECRET.removeprefix("whsec_").encode(), SECRET, MismatchCause.KEY_NOT_DECODED),
        (SECRET.encode(), SECRET, MismatchCause.KEY_WITH_PREFIX),
        (KEY, SECRET.removeprefix("whsec_"), MismatchCause.KEY_DECODED),
        (KEY, f"{SECRET}\n", MismatchCause.KEY_SPACES),
    ],
)
def test_a_misused_key_is_recognized(key: bytes, given: str, cause: MismatchCause) -> None:
    """A secret used as text, with its prefix, or given without it, explains the signature."""
    found = verify([given], headers=headers_signed_with(key), body=BODY, now=NOW)

    assert VerifiedPart.SIGNATURE in failed(found)
    assert found.cause is cause


def test_a_misused_key_with_a_changed_body_is_recognized() -> None:
    """The cause is that of the key."""
    received = json.dumps(json.loads(BODY), separators=(",", ":"), ensure_ascii=False).encode()

    found = verify([SECRET], headers=headers_signed_with(SECRET.encode()), body=received, now=NOW)

    assert found.cause is MismatchCause.KEY_WITH_PREFIX


@pytest.mark.parametrize("body", [BODY.replace(b"1", b"2"), b"", b"[" * 100_000, b"1" * 10_000, b"\xff", b'"\\ud800"'])
def test_an_altered_body_has_no_known_cause(body: bytes) -> None:
    """The step reports that the signature differs, and nothing else."""
    found = verify([SECRET], headers=signed_headers(), body=body, now=NOW)

    assert failed(found) == [VerifiedPart.SIGNATURE]
    assert found.cause is None


def test_a_tampered_signature_differs() -> None:
    """One changed character is enough, as in the specification's vector."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA=",
    }
    now = datetime.fromtimestamp(1614265330, UTC)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    found = verify([secret], headers=headers, body=b'{"test": 2432232314}', now=now)
    genuine = headers | {"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}

    assert failed(found) == [VerifiedPart.SIGNATURE]
    assert verify([secret], headers=genuine, body=b'{"test": 2432232314}', now=now).valid


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (f" {SECRET}", "spaces or line ends around it"),
        ("whsec_not base64!", "is not base64"),
        ("whsec_AAAA", "not an HMAC key"),
        ("whsk_" + "A" * 32, "private key"),
        ("whpk_" + "A" * 32, "not a public key"),
        ("whpk_not base64!", "not a public key"),
        ("", "not an HMAC key"),
    ],
)
def test_an_unusable_secret_is_reported(secret: str, text: str) -> None:
    """By the rules of the sender."""
    found = verify([secret], headers=signed_headers(secret=OTHER), body=BODY, now=NOW)

    assert failed(found) == [VerifiedPart.SECRET, VerifiedPart.SIGNATURE]
    assert text in found.checks[0].text


def test_without_a_secret_nothing_is_valid() -> None:
    """An empty list of secrets accepts no request."""
    assert not verify([], headers=signed_headers(), body=BODY, now=NOW).valid


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), f"{SECRET}\n", "whsec_c4n4ry c4n4ry"])
def test_a_result_contains_neither_secret_nor_body(secret: str) -> None:
    """Operators paste results into tickets."""
    found = verify([secret], headers=signed_headers(secret=OTHER), body=b'{"private": "b0dy"}', now=NOW)

    text = repr(found)
    assert "signature" in text
    for private in (secret.strip(), secret.strip().removeprefix("whsec_"), "b0dy", "c4n4ry"):
        assert private not in text
