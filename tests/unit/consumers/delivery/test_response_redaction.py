"""Redaction of a receiver's response."""

import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from consumers.delivery.response_redaction import (
    SHOWN_CHARACTERS,
    credential_candidates_in_header,
    credential_candidates_in_url,
    redact_response,
)

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
