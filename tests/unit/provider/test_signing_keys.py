"""Keys: they sign as Standard Webhooks does, and do nothing else."""

import base64
import copy
import hashlib
import hmac
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from provider.ed25519_key import Ed25519SigningKey
from provider.errors import SecretMalformed
from provider.signing_keys import HmacKey, SigningKey
from provider.signing_secret import MAX_OVERLAP, KeyRollover, SigningSecret
from provider.snapshot import SecretSnapshot
from tests.kubernetes.canary import locals_in_provider, shows
from tests.kubernetes.manifests import ED25519_KEY, KEY, OTHER_KEY
from tests.support.signing import KeySignature, sign_with

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
RAW = bytes(range(200, 232))


def base64_of(size: int) -> bytes:
    return base64.b64encode(bytes(range(1, size + 1)))


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (b'{"test": 2432232314}', "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (b"", "v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A="),
        ('{"n":"Zoë ☃"}'.encode(), "Oyrrljv3Vb2xCfd8mXX4m0zOm5JFGUzVNTkaYXHOz9M="),
    ],
)
def test_a_key_signs_as_the_official_vector(body: bytes, signature: str) -> None:
    """The HMAC of `id.timestamp.body` is the one that Standard Webhooks publishes."""
    key = HmacKey(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signed = key.sign(b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330." + body)

    assert base64.b64encode(signed).decode() == signature


def test_the_reference_library_verifies_what_a_key_signed() -> None:
    """A receiver with the official library accepts it."""
    now, body = datetime.now(UTC), '{"invoice": 7}'
    signed = base64.b64encode(HmacKey(KEY).sign(f"dlv_1.{int(now.timestamp())}.{body}".encode())).decode()
    headers = {
        "webhook-id": "dlv_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1,{signed}",
    }

    verified = Webhook(KEY.decode()).verify(body, headers)

    assert verified == {"invoice": 7}


@pytest.mark.parametrize("size", [24, 32, 63, 64])
def test_a_key_may_be_raw_bytes_of_24_to_64(size: int) -> None:
    """Without the prefix, the bytes are the key."""
    material = bytes(range(150, 150 + size))

    signed = HmacKey(material).sign(b"message")

    assert signed == hmac.digest(material, b"message", "sha256")


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_a_key_may_be_whsec_and_base64_of_24_to_64(size: int) -> None:
    """With the prefix, the decoded bytes are the key, padded or not."""
    signed = HmacKey(b"whsec_" + base64_of(size)).sign(b"message")

    assert signed == hmac.digest(bytes(range(1, size + 1)), b"message", "sha256")


@pytest.mark.parametrize(
    "material",
    [
        b"\n" + RAW + b" ",
        b"\t" * 24 + b"\x80",
        b" " + b"\x00" * 24,
        b"correct horse battery staple",
        b"0123456789abcdef0123456789abcdef",
    ],
)
def test_white_space_is_no_mistake_in_binary_or_inside_text(material: bytes) -> None:
    """A random key may begin or end with any byte; a passphrase has spaces in it."""
    signed = HmacKey(material).sign(b"message")

    assert signed == hmac.digest(material, b"message", "sha256")


@pytest.mark.parametrize(
    "material",
    [
        b"",
        b"whsec_",
        b"a" * 23,
        b"a" * 65,
        RAW * 1000,
        b"whsec_" + base64_of(23),
        b"whsec_" + base64_of(65),
        b"whsec_" + base64_of(32) + b"\n",
        b" whsec_" + base64_of(32),
        b"whsec_" + base64_of(32)[:-1],
        b"whsec_" + base64_of(32) + b"=",
        b"whsec_" + base64_of(24) + b"====",
        b"whsec_" + base64_of(24) + b"=",
        b"whsec_" + base64_of(24)[:16] + b"\n" + base64_of(24)[16:],
        b"whsec_" + base64_of(24)[:16] + b"====" + base64_of(24)[16:],
        b"whsec_" + b"-_" * 16,
        b"whsec_" + b"!" * 32,
        b'"whsec_' + base64_of(32) + b'"',
        b"\xef\xbb\xbfwhsec_" + base64_of(32),
        b"SIGNING_KEY=whsec_" + base64_of(24),
        b"whsk_" + base64_of(32),
        b"whpk_" + base64_of(32),
        b"0123456789abcdef0123456789abcdef\n",
        b"0123456789abcdef0123456789abcdef\r\n",
        b" 0123456789abcdef0123456789abcdef",
        b" " * 32,
    ],
)
def test_whatever_else_is_malformed(material: bytes) -> None:
    """Nothing is stripped, completed or guessed, and the error's frames do not keep it."""
    with pytest.raises(SecretMalformed) as refused:
        HmacKey(material)

    assert refused.value.__context__ is None
    assert len(material) < 12 or not shows(locals_in_provider(refused.value), material)


KEYS: list[SigningKey] = [HmacKey(KEY), Ed25519SigningKey(ED25519_KEY)]
NOT_FOR_KEYS: list[Callable[[Any], object]] = [
    hash,
    iter,
    len,
    bytes,
    list,
    int,
    lambda key: key[0],
    lambda key: key < HmacKey(KEY),
]
WAYS_OUT: list[Callable[[Any], object]] = [
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
    lambda held: pickle.dumps(held, protocol=0),
    json.dumps,
    msgspec.json.encode,
    msgspec.msgpack.encode,
    msgspec.to_builtins,
    vars,
]
WAYS_TO_SHOW: list[Callable[[object], str]] = [
    repr,
    str,
    format,
    ascii,
    lambda held: f"{held!r}",
    lambda held: repr([held]),
]


@pytest.mark.parametrize("take", WAYS_OUT)
@pytest.mark.parametrize(
    "held",
    [
        HmacKey(KEY),
        Ed25519SigningKey(ED25519_KEY),
        SigningSecret(current=HmacKey(KEY), version="1"),
        SecretSnapshot(tenant="acme", purpose="webhook-signing", version="1", secrets={}),
    ],
)
def test_an_object_with_a_key_cannot_be_copied_or_serialised(held: object, take: Callable[[Any], object]) -> None:
    """Each way to export the object raises an error without a value."""
    with pytest.raises(TypeError) as refused:
        take(held)

    assert not shows(str(refused.value), KEY)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("take", NOT_FOR_KEYS)
def test_a_key_is_no_value(key: SigningKey, take: Callable[[Any], object]) -> None:
    """A key cannot be hashed, counted, split or ordered."""
    with pytest.raises(TypeError) as refused:
        take(key)

    assert not shows(str(refused.value), KEY)


@pytest.mark.parametrize(("one", "twin"), [(KEYS[0], HmacKey(KEY)), (KEYS[1], Ed25519SigningKey(ED25519_KEY))])
def test_a_key_is_equal_to_itself_only(one: SigningKey, twin: SigningKey) -> None:
    """`==` does not reveal whether two keys are the same."""
    assert one == one  # noqa: PLR0124 - the point of the test
    assert one != twin
    assert one != KEY
    assert one.signs_like(twin)
    assert not one.signs_like(HmacKey(OTHER_KEY))


@pytest.mark.parametrize("show", WAYS_TO_SHOW)
def test_an_object_with_a_key_does_not_show_it(show: Callable[[object], str]) -> None:
    """Every text form is the same for every key."""
    key, secret = HmacKey(KEY), SigningSecret(current=HmacKey(KEY), version="1")
    snapshot = SecretSnapshot(tenant="acme", purpose="webhook-signing", version="1", secrets={"signing": secret})

    assert show(Ed25519SigningKey(ED25519_KEY)).strip("[]") == "Ed25519SigningKey(...)"
    assert show(snapshot).strip("[]") == "SecretSnapshot(...)"
    assert show(key).strip("[]") == "HmacKey(...)"
    assert show(secret).strip("[]") == "SigningSecret(...)"


def test_a_key_keeps_no_bytes() -> None:
    """A key refers neither to its material nor to its bytes."""
    key = HmacKey(KEY)

    kept = [getattr(key, f"_HmacKey{name}") for name in HmacKey.__slots__]

    assert [type(value) for value in kept] == [type(hashlib.sha256())] * 2


@pytest.mark.parametrize("message", ["text", None, bytearray(b"x"), memoryview(b"x"), 7, [b"x"]])
@pytest.mark.parametrize("key", KEYS)
def test_only_bytes_are_signed(key: Any, message: object) -> None:
    """A message of another type is refused before any library sees it, and its value is not repeated."""
    with pytest.raises(TypeError, match="must be bytes") as refused:
        key.sign(message)

    assert refused.traceback[-1].name == "require_bytes"


def secret(expires_at: datetime | None) -> SigningSecret:
    return SigningSecret(
        current=HmacKey(KEY), previous=HmacKey(OTHER_KEY), previous_expires_at=expires_at, version="uid/1"
    )


def test_both_keys_sign_while_a_rollover_lasts() -> None:
    """The current key signs first."""
    signatures = sign_with(secret(NOW + timedelta(hours=1)), b"message", NOW)

    assert signatures == [
        KeySignature("current", "v1", HmacKey(KEY).sign(b"message")),
        KeySignature("previous", "v1", HmacKey(OTHER_KEY).sign(b"message")),
    ]


@pytest.mark.parametrize(
    ("expires_in", "valid"),
    [
        (timedelta(microseconds=1), True),
        (timedelta(days=30), True),
        (timedelta(0), False),
        (timedelta(microseconds=-1), False),
        (timedelta(days=30, microseconds=1), False),
        (timedelta(days=-400), False),
    ],
)
def test_the_previous_key_signs_until_it_expires(expires_in: timedelta, valid: bool) -> None:
    """It is judged at signing: `now < expiry <= now + 30 days`."""
    held = secret(NOW + expires_in)

    assert held.is_previous_valid(NOW) is valid
    assert [signature.slot for signature in sign_with(held, b"message", NOW)] == (
        ["current", "previous"] if valid else ["current"]
    )


def test_the_previous_key_expires_in_memory() -> None:
    """The same object signs with one key fewer, one moment later."""
    held = secret(NOW.astimezone(timezone(timedelta(hours=-9))))

    before, after = sign_with(held, b"m", NOW - timedelta(seconds=1)), sign_with(held, b"m", NOW)

    assert (len(before), len(after)) == (2, 1)


def test_a_previous_key_without_expiry_never_signs() -> None:
    """A rollover without an end is not valid."""
    assert [signature.slot for signature in sign_with(secret(None), b"message", NOW)] == ["current"]


def test_a_time_without_a_zone_is_refused_always() -> None:
    """Not only in a rollover, when it would be noticed too late."""
    for held in (secret(None), secret(NOW)):
        with pytest.raises(TypeError, match="time zone"):
            sign_with(held, b"message", NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("expires_in", "active", "misconfigured"),
    [
        (timedelta(seconds=1), True, False),
        (MAX_OVERLAP, True, False),
        (timedelta(0), False, False),
        (timedelta(days=-400), False, False),
        (MAX_OVERLAP + timedelta(seconds=1), False, True),
    ],
)
def test_the_state_of_a_rollover_is_reported(expires_in: timedelta, active: bool, misconfigured: bool) -> None:
    """An ended rollover is valid, and an end too far ahead is a mistake."""
    held = secret(NOW + expires_in)

    assert held.describe_rollover(NOW) == KeyRollover(active, NOW + expires_in, misconfigured)


@pytest.mark.parametrize("misconfigured", [False, True])
def test_without_a_usable_previous_key_there_is_no_rollover(misconfigured: bool) -> None:
    """A missing or ignored previous key means no rollover."""
    held = SigningSecret(
        current=HmacKey(KEY), version="1", previous_expires_at=NOW, rollover_misconfigured=misconfigured
    )

    assert held.describe_rollover(NOW) == KeyRollover(False, None, misconfigured)
