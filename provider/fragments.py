"""Fragments of a secret value: hashes of every eight characters in a row, by which an echo of the value is recognized.

A receiver may print the key that it expects. The consumer must recognize the key without it, so a key
keeps its fragments. Python's hash of bytes is keyed with a random number of the process. The hashes are no
weaker than the hash states that a key keeps to sign with: either is enough to forge signatures.
"""

import html
import re
from array import array
from typing import Final
from urllib.parse import unquote

FRAGMENT: Final = 8
"""Characters of a fragment. Fewer would match ordinary words by accident."""

Reading = tuple[bytes, bytes]
"""A way to read bytes: the translation of each byte, and the bytes that are skipped."""

_LETTERS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALL: Final = bytes(range(256))
UNSPACED: Final[Reading] = (_ALL, b"\0\t\n\v\f\r ")
"""Every byte but white space, and but NUL, so that ASCII in UTF-16 and UTF-32 equals ASCII."""
LETTERS_ONLY: Final[Reading] = (_ALL.lower(), bytes(set(_ALL) - set(_LETTERS)))
"""ASCII letters and digits, in lower case: what separators and another case cannot hide."""

_MAX_DECODINGS: Final = 3
_ESCAPES: Final = re.compile(r"""\\(?:u(?P<u>[0-9A-Fa-f]{4})|x(?P<x>[0-9A-Fa-f]{2})|(?P<plain>[/\\"'nrt]))""")
_CONTROL: Final = {"n": "\n", "r": "\n", "t": "\t"}


def fragments_of(*values: bytes) -> "array[int]":
    """Return the fragments of `values`, each as it is and as `decode_escapes` leaves it."""
    found: set[int] = set()
    for form in {form for value in values for form in _forms(value)}:
        letters = hash_fragments(form, LETTERS_ONLY)
        found.update(letters)
        if 4 * len(letters) < 3 * (len(form) - FRAGMENT):  # with many symbols, eight letters are many characters
            found.update(hash_fragments(form, UNSPACED))
    return array("q", sorted(found))


def hash_fragments(data: bytes, reading: Reading) -> list[int]:
    """Return the hash of each fragment of `data`, in order, when it is read in this way."""
    read = data.translate(*reading)
    return [hash(read[at : at + FRAGMENT]) for at in range(len(read) - FRAGMENT + 1)]


def one_byte_each(text: str) -> bytes:
    """Return one byte for each character, so that positions are the same; ASCII characters are unchanged."""
    return text.encode("utf-32-le", "surrogatepass")[::4]


def decode_escapes(text: str) -> str:
    """Return `text` without escapes of JSON, URLs and HTML, as far as a reader would decode them."""
    for _ in range(_MAX_DECODINGS):
        once = unquote(html.unescape(_ESCAPES.sub(_unescaped, text)), errors="replace")
        if once == text:
            break
        text = once
    return text


def _forms(value: bytes) -> set[bytes]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {value}  # in a text, such bytes are readable only as hex, base64 or numbers
    return {value, one_byte_each(text), one_byte_each(decode_escapes(text))}


def _unescaped(found: re.Match[str]) -> str:
    code = found["u"] or found["x"]
    return chr(int(code, 16)) if code else _CONTROL.get(found["plain"], found["plain"])
