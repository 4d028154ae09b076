"""Search of the leak tests: finds every form and part of a secret, and no false match."""

import base64
import json
import os
import urllib.parse
from collections.abc import Callable

import msgspec
import pytest

from tests.support.leaks import WINDOW, Canary, Search
from tests.support.site import document

Writing = Callable[[bytes], bytes]

WRITINGS: dict[str, Writing] = {
    "raw": lambda value: value,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "base64 of a document with it": lambda value: base64.b64encode(b'{"a": "' + value + b'"}'),
    "base64 of base64, as a manifest in an event": lambda value: base64.b64encode(b"?" + base64.b64encode(value)),
    "hex": lambda value: value.hex().encode(),
    "upper-case hex": lambda value: value.hex().upper().encode(),
    "hex in groups": lambda value: value.hex(":").encode(),
    "percent-encoded": lambda value: urllib.parse.quote_from_bytes(value, safe="").encode(),
    "reversed": lambda value: value[::-1],
    "a Python literal": lambda value: repr(value).encode(),
    "a literal in a literal": lambda value: repr(repr(value)).encode(),
    "a bytearray": lambda value: repr(bytearray(value)).encode(),
    "JSON": lambda value: json.dumps(value.decode("latin-1")).encode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps(value.decode("latin-1"))).encode(),
    "JSON in UTF-8": lambda value: json.dumps(value.decode("latin-1"), ensure_ascii=False).encode(),
    "JSON with escaped slashes": lambda value: json.dumps(value.decode("latin-1")).replace("/", "\\/").encode(),
    "JSON of msgspec": msgspec.json.encode,
    "numbers": lambda value: str(list(value)).encode(),
    "numbers in JSON": lambda value: msgspec.json.encode(list(value)),
    "HMAC's inner block": lambda value: bytes(byte ^ 0x36 for byte in value),
}


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS)
def test_a_key_is_found_however_it_is_written(writing: Writing) -> None:
    """The 32 bytes behind `whsec_`, anywhere in something longer."""
    canary = Canary.secret()
    key = base64.b64decode(canary.reveal().removeprefix("whsec_"))

    assert Search(canary).find(b"before " + writing(key) + b" after")


@pytest.mark.parametrize("writing", [WRITINGS[name] for name in WRITINGS if "HMAC" not in name])
def test_a_text_is_found_however_it_is_written(writing: Writing) -> None:
    """The secret's text itself, prefix and all."""
    canary = Canary.secret()

    assert Search(canary).find(b"before " + writing(canary.reveal_bytes()) + b" after")


@pytest.mark.parametrize("start", range(0, 38, 5))
def test_any_twelve_bytes_are_enough(start: int) -> None:
    """The search finds twelve bytes at any position."""
    canary = Canary.secret()
    part = canary.reveal_bytes()[start : start + WINDOW]

    for before in range(20):
        assert Search(canary).find(os.urandom(before) + part + b"x" * before)
    assert Search(canary).find(part[:-1]) == []


def test_absent_canaries_are_not_found() -> None:
    """The search finds nothing in random bytes, in test output, or of another canary."""
    canary, other = Canary.secret("one"), Canary.secret("other")
    search = Search(canary, other, Canary.word("word"))

    assert search.find(b"".join(writing(os.urandom(20_000)) for writing in WRITINGS.values())) == []
    assert search.find(document("orders")) == []
    assert {finding.canary for finding in search.find(other.reveal())} == {"other"}


def test_the_canary_is_in_no_traceback() -> None:
    """Frames of the tests do not show the canary, so they cause no findings."""
    canary = Canary.secret()

    assert Search(canary).find(f"{canary!r} {canary!s} {Search(canary)!r} {[canary]}") == []
