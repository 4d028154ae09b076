"""A search for secrets in every place and every encoding that could show them.

A canary is a random value, so a finding comes from the searched place and not from the test. The search finds any
twelve consecutive bytes of the canary or of its other forms: the key, encoded once or twice, reversed, or as the
input of a hash. It also reads places that are written with escapes, as numbers or in groups.
"""

import base64
import os
import re
from collections.abc import Iterator
from typing import Final

import msgspec

WINDOW: Final = 12
"""Consecutive bytes that make a finding; fewer would match by chance, above all in hexadecimal."""

_GRAM: Final = 6
_STRIDE: Final = WINDOW - _GRAM + 1
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2}[ :\-]){11,}[0-9A-Fa-f]{2}")
_NUMBERS: Final = re.compile(rb"(?:[0-9]{1,3},\s?){11,}[0-9]{1,3}")
_ESCAPES: Final = re.compile(rb"\\(?:x(?P<hex>[0-9A-Fa-f]{2})|u00(?P<json>[0-9A-Fa-f]{2})|(?P<plain>[/bfnrt'\"\\]))")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_DEEPEST: Final = 3
"""Depth to which a literal inside a literal is decoded."""


class Canary:
    """A secret value to search for; findings show its `name`."""

    __slots__ = ("_text", "name")

    def __init__(self, name: str, text: str | bytes) -> None:
        self.name = name
        self._text = text.encode() if isinstance(text, str) else text

    @classmethod
    def secret(cls, name: str = "secret") -> "Canary":
        """Create a signing secret: `whsec_` and base64 of 32 random bytes."""
        return cls(name, b"whsec_" + base64.b64encode(os.urandom(32)))

    @classmethod
    def word(cls, name: str, prefix: str = "") -> "Canary":
        """Create a value that is no signing secret, such as a token; redaction does not recognize its form."""
        return cls(name, prefix + os.urandom(12).hex())

    def reveal(self) -> str:
        """Return the text, for the place where the secret belongs."""
        return self._text.decode()

    def reveal_bytes(self) -> bytes:
        """Return the bytes."""
        return self._text

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """Yield each form of the value: the name of the form, and its bytes."""
        yield from _forms("text", self._text)
        if self._text.startswith(b"whsec_"):
            key = base64.b64decode(self._text.removeprefix(b"whsec_"))
            yield from _forms("key", key)
            for pad in (0x36, 0x5C):
                yield f"key in HMAC's {pad:#x} block", bytes(byte ^ pad for byte in key)

    def __repr__(self) -> str:
        return f"Canary({self.name})"


class Finding(msgspec.Struct, frozen=True, order=True):
    """A canary, and the form in which it was found."""

    canary: str
    form: str


class Search:
    """A search for several canaries at once."""

    __slots__ = ("_grams", "_windows")

    def __init__(self, *canaries: Canary) -> None:
        self._windows: dict[bytes, Finding] = {}
        for canary in canaries:
            for form, value in canary.forms():
                for window in _pieces(value, WINDOW):
                    self._windows.setdefault(window, Finding(canary.name, form))
        # Every window has one of these at a multiple of the stride, so only few positions are compared.
        self._grams = {gram for window in self._windows for gram in _pieces(window, _GRAM)}

    def find(self, place: bytes | str) -> list[Finding]:
        """Return the findings in `place`, each one once."""
        content = place.encode(errors="surrogateescape") if isinstance(place, str) else place
        return sorted({finding for view in _views(content) for finding in self._in(view)})

    def _in(self, view: bytes) -> Iterator[Finding]:
        for at in range(0, len(view), _STRIDE):
            if view[at : at + _GRAM] in self._grams:
                around = view[max(0, at - _STRIDE + 1) : at + WINDOW]
                yield from (self._windows[window] for window in _pieces(around, WINDOW) if window in self._windows)

    def __repr__(self) -> str:
        return "Search(...)"


def _forms(name: str, value: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, value
    yield f"{name} reversed", value[::-1]
    yield f"{name} taken for Latin-1", value.decode("latin-1").encode()
    yield f"{name} in hex", value.hex().encode()
    yield f"{name} in upper-case hex", value.hex().upper().encode()
    for once in _base64(value):
        yield f"{name} in base64", once
        yield f"{name} in base64url", once.translate(bytes.maketrans(b"+/", b"-_"))
        for twice in _base64(once):
            yield f"{name} in base64 twice", twice


def _base64(value: bytes) -> Iterator[bytes]:
    """Yield the characters that depend only on `value`, for each alignment in a longer text."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + value)
        yield encoded[-(-offset * 8 // 6) : len(encoded.rstrip(b"=")) - 1]


def _pieces(value: bytes, length: int) -> Iterator[bytes]:
    for start in range(len(value) - length + 1):
        yield value[start : start + length]


def _views(content: bytes) -> Iterator[bytes]:
    """Yield the content as it is, and decoded from escapes, numbers and groups."""
    yield content
    literal = content
    for _ in range(_DEEPEST):
        literal, count = _ESCAPES.subn(_unescaped, literal)
        if count:
            yield literal
    if _PERCENT.search(content):
        yield _PERCENT.sub(lambda found: bytes.fromhex(found[1].decode()), content)
    for found in _HEX.finditer(content):
        yield bytes.fromhex(re.sub(rb"[ :\-]", b"", found[0]).decode())
    for found in _NUMBERS.finditer(content):
        yield bytes(number for number in map(int, found[0].split(b",")) if number < 256)


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found["hex"] or found["json"]
    return bytes.fromhex(code.decode()) if code else _CONTROL.get(found["plain"], found["plain"])
