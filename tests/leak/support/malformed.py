"""Malformed keys, each made of a canary."""

import base64
from collections.abc import Callable
from typing import Final

from tests.support.leaks import Canary

Malformed = Callable[[bytes], bytes]
"""Made of the text of a good secret."""


def _key(text: bytes) -> bytes:
    return base64.b64decode(text.removeprefix(b"whsec_"))


MALFORMED: Final[dict[str, Malformed]] = {
    "a line end behind it": lambda text: text + b"\n",
    "a blank before it": lambda text: b" " + text,
    "quotes around it": lambda text: b'"' + text + b'"',
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "its prefix twice": lambda text: b"whsec_" + text,
    "no base64": lambda text: text[:20] + b"!" + text[21:],
    "base64url": lambda text: text[:20] + b"-_" + text[22:],
    "surplus padding": lambda text: text + b"==",
    "no padding": lambda text: text.rstrip(b"="),
    "too short": lambda text: text[:26],
    "too long": lambda text: b"whsec_" + base64.b64encode(_key(text) * 3),
    "too long, raw": lambda text: _key(text) * 3,
    "too short, raw": lambda text: _key(text)[:20],
    "a private key's prefix": lambda text: text.replace(b"whsec_", b"whsk_"),
    "a public key's prefix": lambda text: text.replace(b"whsec_", b"whpk_"),
    "halves that don't match": lambda text: b"whsk_" + base64.b64encode(_key(text) * 2),
    "a variable's assignment": lambda text: b"SECRET=" + text,
}
"""None of it can sign."""

USABLE: Final[dict[str, Malformed]] = {
    "text": lambda text: text,
    "raw": _key,
    "raw text": lambda text: text.removeprefix(b"whsec_"),
    "encoded twice": lambda text: base64.b64encode(text)[:64],
}
"""All of it can, wisely or not."""


def made_of(canary: Canary, make: Malformed) -> bytes:
    """Return the content of the Secret."""
    return make(canary.reveal_bytes())
