"""Fragments of a secret value: every eight characters in a row, by which an echo of the value is recognized.

A receiver may print the key that it expects. The consumer must recognize the key without it, so a key
keeps hashes of its pieces: its fragments and its groups. Python's hash of bytes is keyed with a random number of
the process, so the hashes say nothing outside of it. A reader of the memory of the process has that number, can try
all groups, and put the text of the key together. The hash states that a key keeps to sign with are enough to forge
signatures, but do not show the key. The hashes exist as long as the key object, and are neither stored nor logged.

A fragment contains one of every fifth group of four characters. So a text without a known group at every fifth
place has no fragment, which is cheap to find out.
"""

import html
import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from struct import Struct
from typing import Final
from urllib.parse import unquote

FRAGMENT: Final = 8
"""Characters of a fragment. Fewer would match ordinary words by accident."""
GROUP: Final = 4
STEP: Final = FRAGMENT - GROUP + 1
"""Each fragment contains a whole group that begins at a multiple of this."""

MAX_ESCAPES: Final = 1200
"""Escapes of all decodings together. 3 KiB of an answer hold 1,024 of the form `%D0`."""

Reading = tuple[bytes, bytes]
"""A way to read bytes: the translation of each byte, and the bytes that are skipped."""

_LETTERS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALL: Final = bytes(range(256))
UNSPACED: Final[Reading] = (_ALL, b"\0\t\n\v\f\r ")
"""Every byte but white space, and but NUL, so that ASCII in UTF-16 and UTF-32 equals ASCII."""
LETTERS_ONLY: Final[Reading] = (_ALL.lower(), bytes(set(_ALL) - set(_LETTERS)))
"""ASCII letters and digits, in lower case: what separators and another case cannot hide."""

_PIECES: Final = {size: Struct(f"{size}s" * 32) for size in (GROUP, FRAGMENT)}
_GROUPS: Final = Struct(f"{GROUP}s{STEP - GROUP}x" * 32)
_NO_TEXT: Final = b" "
"""Between readings, neither of which contains it."""
_MAX_DECODINGS: Final = 3
_ESCAPES: Final = re.compile(r"""\\(?:u(?P<u>[0-9A-Fa-f]{4})|x(?P<x>[0-9A-Fa-f]{2})|(?P<plain>[/\\"'nrt]))""")
_CONTROL: Final = {"n": "\n", "r": "\n", "t": "\t"}


class HashedBytes(int):
    """Bytes of which only the hash is known. In a set, they equal the bytes with that hash."""

    __slots__ = ()
    __hash__ = int.__int__

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


Pieces = frozenset[bytes | HashedBytes]


class TooManyEscapes(Exception):
    """A text has more escapes than the event loop has time to decode."""


def fragments_of(*values: bytes) -> "array[int]":
    """Return the hashes of the pieces of `values`, each as it is and as `decode_escapes` leaves it."""
    known = join_readings(values)
    pieces = {piece for size in _PIECES for piece in split(known, size)}
    return array("q", sorted(hash(piece) for piece in pieces if isinstance(piece, bytes) and _NO_TEXT not in piece))


def join_readings(values: Iterable[bytes]) -> bytes:
    """Return what a text may contain of `values`: each reading of each form that has a fragment, once."""
    readings = {reading for value in values for form in _forms(value) for reading in _readings(form)}
    joined = b""
    for reading in sorted(readings, key=len, reverse=True):
        if len(reading) >= FRAGMENT and reading not in joined:
            joined += reading + _NO_TEXT
    return joined


def split(known: bytes, size: int) -> Pieces:
    """Return all pieces of `size` bytes of joined readings, and a few that no text contains."""
    unpack = _PIECES[size]
    shifted = (_pad(known[start:], unpack, _NO_TEXT) for start in range(min(size, len(known))))
    return frozenset(chain.from_iterable(row for data in shifted for row in unpack.iter_unpack(data)))


def find_groups(read: bytes, pieces: Pieces) -> list[int]:
    """Return where a text contains one of `pieces`, of the groups at every fifth place of the text."""
    return [
        row * _GROUPS.size + group * STEP
        for row, groups in enumerate(_GROUPS.iter_unpack(_pad(read, _GROUPS, b"\0")))
        if not pieces.isdisjoint(groups)
        for group, piece in enumerate(groups)
        if piece in pieces
    ]


def one_byte_each(text: str) -> bytes:
    """Return one byte for each character, so that positions are the same; ASCII characters are unchanged."""
    return text.encode("utf-32-le", "surrogatepass")[::4]


def decode_escapes(text: str) -> str:
    """Return `text` without escapes of JSON, URLs and HTML, as far as a reader would decode them.

    Raises `TooManyEscapes`.
    """
    escapes = 0
    for _ in range(_MAX_DECODINGS):
        escapes += count_escapes(text)
        if escapes > MAX_ESCAPES:
            raise TooManyEscapes
        once = unquote(html.unescape(_ESCAPES.sub(_unescaped, text)), errors="replace")
        if once == text:
            break
        text = once
    return text


def count_escapes(text: str) -> int:
    """Return how many characters begin an escape, or might."""
    return text.count("\\") + text.count("&") + text.count("%")


def _forms(value: bytes) -> set[bytes]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {value}  # in a text, such bytes are readable only as hex, base64 or numbers
    return {value, one_byte_each(text), one_byte_each(decode_escapes(text))}


def _readings(form: bytes) -> Iterator[bytes]:
    letters = form.translate(*LETTERS_ONLY)
    yield letters
    # With many symbols, eight letters are many characters.
    if 4 * max(len(letters) - FRAGMENT + 1, 0) < 3 * (len(form) - FRAGMENT):
        yield form.translate(*UNSPACED)


def _pad(data: bytes, rows: Struct, byte: bytes) -> bytes:
    return data.ljust(-(-len(data) // rows.size) * rows.size, byte)


def _unescaped(found: re.Match[str]) -> str:
    code = found["u"] or found["x"]
    return chr(int(code, 16)) if code else _CONTROL.get(found["plain"], found["plain"])
