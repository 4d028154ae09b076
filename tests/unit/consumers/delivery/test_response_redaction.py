"""Redaction of a receiver's response."""

import base64
import html
import itertools
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest

from consumers.delivery.response_redaction import (
    SHOWN_CHARACTERS,
    credential_candidates_in_header,
    credential_candidates_in_url,
    redact_response,
)
from provider.signing_keys import HmacKey, SigningKey
from telemetry.redaction import MASK

SIGNATURE = "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H+pI4="
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw0123456789A="
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON as PHP writes it": lambda text: text.replace("/", "\\/"),
    "JSON escaped twice": lambda text: "".join(f"\\\\u{ord(letter):04x}" for letter in text),
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML entities": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "HTML": html.escape,
    "in lines": lambda text: f"{text[:20]}\n  {text[20:40]}\n  {text[40:]}",
    "in groups of hex": lambda text: text.encode().hex(" "),
    "numbers": lambda text: str(list(text.encode())),
    "hex": lambda text: text.encode().hex(),
}


KEYS: dict[str, SigningKey] = {
    SECRET: HmacKey(SECRET.encode()),
    "tr0ub4dor&3-correct-horse": HmacKey(b"tr0ub4dor&3-correct-horse"),
    "Zq8vT2mW5xY9bN4kR7pL1cJ6": HmacKey(b"Zq8vT2mW5xY9bN4kR7pL1cJ6"),
    "correct-horse%41battery&amp;staple": HmacKey(b"correct-horse%41battery&amp;staple"),
}
ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "plain": bytes.decode,
    "hex": bytes.hex,
    "upper-case hex": lambda key: key.hex().upper(),
    "UTF-16 in hex": lambda key: key.decode().encode("utf-16-be").hex(),
    "base64": lambda key: base64.b64encode(key).decode(),
    "base64 after one byte": lambda key: base64.b64encode(b"." + key).decode(),
    "base64 after two bytes": lambda key: base64.urlsafe_b64encode(b"\xff\xff" + key).decode().rstrip("="),
    "base64 of UTF-16": lambda key: base64.b64encode(key.decode().encode("utf-16")).decode(),
}
SEPARATORS = ("", " ", "\n", "-", ", ", ":", "::", "\\n", "\\u0000", "\0", "%20", "&nbsp;", "|", "' '", ";\r\n\t")
MORE_FORMS: dict[str, Callable[[bytes], str]] = {
    "numbers": lambda key: str(list(key)),
    "signed numbers": lambda key: str([byte - 256 if byte > 127 else byte for byte in key]),
    "UTF-16 numbers": lambda key: str(list(key.decode().encode("utf-16"))),
    "0x": lambda key: ",".join(f"0x{byte:02x}" for byte in key),
    "\\\\x": lambda key: "".join(f"\\x{byte:02x}" for byte in key),
    "decimal entities": lambda key: "".join(f"&#{byte};" for byte in key),
    "a request in base64": lambda key: base64.encodebytes(b'{"id": 1, "key": "%b"}\r\n' % key).decode(),
    "a hex dump": lambda key: "\n".join(
        f"{at:08x}  {key[at : at + 16].hex(' ')}  |{key[at : at + 16].decode()}|" for at in range(0, len(key), 16)
    ),
}


def groups(text: str, size: int) -> list[str]:
    """Return the text in groups of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def letters(text: str) -> str:
    """Return what a reader could put together again, without the offsets of a hex dump."""
    return "".join(letter for letter in re.sub("000000[0-9]0", "", text) if letter.isalnum())


@pytest.mark.parametrize("secret", KEYS)
@pytest.mark.parametrize("half", [slice(None), slice(12), slice(12, None)], ids=["whole", "first half", "second half"])
def test_a_key_that_the_receiver_knows_is_not_shown(secret: str, half: slice) -> None:
    """The key is not part of the request. It is masked in all encodings, with any separators, but for a short rest."""
    part = secret[half].encode()
    echoes = [
        separator.join(groups(encoding(part), size))
        for encoding, separator, size in itertools.product(ENCODINGS.values(), SEPARATORS, (1, 2, 4))
    ]
    echoes += [form(part) for form in MORE_FORMS.values()]
    for echo in echoes:
        text = redact_response(f"<p>expected {echo} instead".encode(), known=[], fragments=KEYS[secret].fragments)

        left = letters(text.removeprefix("<p>expected ").removesuffix(" instead"))
        assert len(left) <= 8 * len(letters(echo)) / len(part), (echo, text)


def test_nothing_is_shown_of_a_response_with_a_part_of_the_key() -> None:
    """The rest of the key may follow in a form that nobody recognizes, such as octal digits."""
    octal = " ".join(f"{byte:03o}" for byte in SECRET.encode()[16:])
    echo = f"expected {SECRET[8:16]} and {octal}".encode()

    assert redact_response(echo, known=[], fragments=KEYS[SECRET].fragments) == MASK
    assert "and" in redact_response(echo, known=[SECRET[8:16]]), "a value of the request itself is only masked"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("value", [SIGNATURE, SECRET])
def test_neither_signature_nor_secret_is_shown_in_any_form(value: str, form: Callable[[str], str]) -> None:
    """The signature is known, and the secret is recognized by its form. The text around them stays."""
    text = redact_response(f"got {form(value)} and refused it".encode(), known=[SIGNATURE])

    assert text.startswith("got ")
    assert text.endswith(" and refused it")
    assert not any(value[at : at + 12] in text for at in range(len(value) - 12))
    assert "***" in text


def test_a_piece_of_a_known_value_is_masked() -> None:
    """A receiver may print only the first characters."""
    assert (
        redact_response(f"signature {SIGNATURE[:12]}... differs".encode(), known=[SIGNATURE])
        == "signature ***... differs"
    )


def test_the_end_is_masked_before_it_is_cut() -> None:
    """Half a secret does not look like one."""
    body = ". " * (SHOWN_CHARACTERS // 2 - 5) + SECRET

    text = redact_response(body.encode(), known=[])

    assert text.endswith(". whsec_***")


def test_ordinary_responses_are_unchanged() -> None:
    """Plain text, short ids and lists of them are not redacted."""
    body = 'invalid field "amount": expected a number\nname\ncity\ncountry\nrequest id 7f3a-11 at 2026-11-24T06:00:00Z'

    assert redact_response(body.encode(), known=["", "ab"]) == body


def test_a_body_may_have_any_encoding() -> None:
    """Bytes that are not UTF-8 are replaced."""
    assert redact_response(b"caf\xe9", known=[]) == "caf�"


def test_a_urls_credentials_are_its_user_path_and_query() -> None:
    """The host is shown with every attempt, so it is no secret."""
    parts = set(
        credential_candidates_in_url(
            "https://user:pass%21@example.com/services/T0001/verylongtoken?token=a%20b&n=1#part"
        )
    )

    assert {"user", "pass!", "verylongtoken", "a b", "token=a%20b&n=1"} <= parts
    assert not any("example" in part for part in parts)


def test_a_token_after_its_scheme_is_redacted() -> None:
    """`Bearer` itself is shown."""
    assert list(credential_candidates_in_header("Bearer abcdefgh")) == ["Bearer abcdefgh", "abcdefgh"]


def test_what_basic_encodes_is_redacted() -> None:
    """A receiver that refuses a password may print it."""
    value = "Basic " + base64.b64encode(b"orders:hunter2!").decode()

    assert {"orders:hunter2!", "hunter2!"} <= set(credential_candidates_in_header(value))
    assert list(credential_candidates_in_header("Basic /w==")) == ["Basic /w==", "/w=="]


@pytest.mark.parametrize("body", ["Cannot POST /services/T0001/orders-hook", "no route: /services/T0001/orders-hook."])
def test_an_error_page_stays_readable(body: str) -> None:
    """Only the path, which may be a credential, is masked."""
    text = redact_response(
        body.encode(), known=credential_candidates_in_url("https://a.com/services/T0001/orders-hook")
    )

    assert text == body.replace("/services/T0001/orders-hook", "***")
