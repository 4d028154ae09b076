"""A receiver's response as operators may see it: its beginning, without the credentials that the request carried.

A broken receiver may echo the request, in any encoding, and may print the key itself. So the text is decoded as far as
a reader would. It is searched for fragments of the known values, also with separators, and as hex, base64 or numbers.
Then what looks like a secret is masked, also in lines, groups or numbers. Too much is masked rather than too little.
Each step takes time in proportion to the text, which is bounded.
"""

import re
from binascii import Error, a2b_base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from provider.fragments import (
    FRAGMENT,
    LETTERS_ONLY,
    UNSPACED,
    decode_escapes,
    fragments_of,
    hash_fragments,
    one_byte_each,
)
from telemetry.redaction import MASK, scrub

SHOWN_CHARACTERS: Final = 1024

_SEARCHED_CHARACTERS: Final = SHOWN_CHARACTERS + 512
"""More than is shown, so that a secret across the end of the shown part is found."""
_SHORTEST: Final = 4
"""A shorter value is no secret, and would mask half the text."""
_GROUPED: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[ :,\-]\s?){11,}[0-9A-Fa-f]{2}|(?:[0-9]{1,3},\s?){11,}[0-9]{1,3}")
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/=_-]+")
_NUMBERS: Final = re.compile(r"[0-9]+")
_SIGNED_NUMBERS: Final = re.compile(r"-?[0-9]+")
_MIXED: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
_ALL: Final = frozenset(range(256))
_NOT_HEX: Final = bytes(_ALL - frozenset(b"0123456789ABCDEFabcdef"))
_NOT_BASE64: Final = bytes(_ALL - frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/"))
_FROM_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")

Span = tuple[int, int]


def redact_response(body: bytes, *, known: Iterable[str], fragments: Iterable[int] = ()) -> str:
    """Return the beginning of `body`, with known values and what looks like a secret masked.

    Args:
        body: The beginning of the response, at most a few KiB.
        known: Values that the request carried.
        fragments: The fragments of the key, which is not known here. A text with one of them is not shown.
    """
    text = decode_escapes(body.decode(errors="replace")).replace("\0", "")[:_SEARCHED_CHARACTERS]
    values = {value for value in known if len(value) >= _SHORTEST}
    keys = frozenset(fragments)
    wanted = keys.union(fragments_of(*[value.encode() for value in values]))
    spans = [span for view in _views(text) for span in view.find(wanted)]
    if spans and any(True for view in _views(text) for _ in view.find(keys)):
        return MASK  # the rest of the key may follow in a form that is not recognized
    text = _mask(text, [*spans, *_find_short(text, values)])
    text = _GROUPED.sub(MASK, text)
    return scrub(_mask(text, _find_in_lines(text)))[:SHOWN_CHARACTERS]


def credential_candidates_in_url(url: str) -> Iterator[str]:
    """Yield what may be a credential in a URL: user and password, long path segments, and query values."""
    parts = urlsplit(url)
    for part in (parts.username, parts.password, parts.path, parts.query, parts.fragment):
        yield part or ""
        yield unquote(part or "")
    yield from (unquote(part) for part in parts.path.split("/") if len(part) >= FRAGMENT)
    for pair in parts.query.split("&"):
        yield unquote(pair.partition("=")[2].replace("+", " "))


def credential_candidates_in_header(value: str) -> Iterator[str]:
    """Yield a header's value, the words after a scheme such as `Bearer`, and what `Basic` encodes."""
    yield value
    first, *words = value.split() or [""]
    for word in [first] * (len(first) >= FRAGMENT) + words:
        yield word
        yield from _decode_basic(word)


class _View(Struct):
    """A reading of the text as bytes, of which `size[1]` are made of `size[0]` source characters."""

    data: bytes
    source: Callable[[], Sequence[Span]]
    """Returns the spans of the source characters in the text; called only when something is found."""
    size: tuple[int, int] = (1, 1)

    def find(self, wanted: frozenset[int]) -> Iterator[Span]:
        """Yield the spans of the text that make a wanted fragment."""
        for reading in (UNSPACED, LETTERS_ONLY):
            hashes = hash_fragments(self.data, reading)
            if wanted.isdisjoint(hashes):
                continue
            source, kept = self.source(), [at for at, byte in enumerate(self.data) if byte not in reading[1]]
            characters, count = self.size
            for at, fragment in enumerate(hashes):
                if fragment in wanted:
                    first, last = kept[at], kept[at + FRAGMENT - 1]
                    yield source[first * characters // count][0], source[((last + 1) * characters - 1) // count][1]


def _views(text: str) -> Iterator[_View]:
    plain = one_byte_each(text)
    yield _View(plain, lambda: [(at, at + 1) for at in range(len(plain))])
    yield from _hex_views(plain.replace(b"0x", b"  "))
    yield from _base64_views(plain)
    if b"-" in plain or b"_" in plain:
        yield from _base64_views(plain.translate(_FROM_BASE64URL))
    yield _number_view(text, _NUMBERS)
    if "-" in text:
        yield _number_view(text, _SIGNED_NUMBERS)


def _hex_views(plain: bytes) -> Iterator[_View]:
    """Yield the bytes of all hex digits, which may begin with the first or the second digit."""
    digits = plain.translate(None, _NOT_HEX)
    for start in range(2):
        pairs = digits[start : len(digits) - (len(digits) - start) % 2]
        yield _View(bytes.fromhex(pairs.decode()), _source_without(plain, _NOT_HEX, start), (2, 1))


def _base64_views(plain: bytes) -> Iterator[_View]:
    """Yield the bytes of all base64 characters, of which any may begin a group of four."""
    characters = plain.translate(None, _NOT_BASE64)
    for start in range(4):
        groups = characters[start : len(characters) - (len(characters) - start) % 4]
        yield _View(a2b_base64(groups), _source_without(plain, _NOT_BASE64, start), (4, 3))


def _number_view(text: str, form: re.Pattern[str]) -> _View:
    """Return the bytes of all numbers; a longer number breaks their sequence."""
    found = list(form.finditer(text))
    data = bytes([int(number[0]) & 0xFF if len(number[0]) <= 4 else 0xFF for number in found])
    return _View(data, lambda: [number.span() for number in found])


def _source_without(plain: bytes, skipped: bytes, start: int) -> Callable[[], list[Span]]:
    return lambda: [(at, at + 1) for at, byte in enumerate(plain) if byte not in skipped][start:]


def _find_short(text: str, values: Iterable[str]) -> Iterator[Span]:
    """Yield where values are that are too short for a fragment."""
    for value in values:
        at = text.find(value) if len(value) < FRAGMENT else -1
        while at >= 0:
            yield at, at + len(value)
            at = text.find(value, at + 1)


def _find_in_lines(text: str) -> Iterator[Span]:
    """Yield what looks like a secret when lines that follow each other are joined."""
    lines: list[re.Match[str]] = []
    for found in [*_ENCODED.finditer(text), None]:
        gap = text[lines[-1].end() : found.start()] if lines and found else ""
        if found and gap.isspace() and "\n" in gap:
            lines.append(found)
            continue
        joined = "".join([line[0] for line in lines])
        if len(lines) > 1 and len(joined) >= 32 and all(kind.search(joined) for kind in _MIXED):
            yield lines[0].start(), lines[-1].end()
        lines = [found] if found else []


def _mask(text: str, spans: Iterable[Span]) -> str:
    """Mask `spans`, and the rest of the words that they touch."""
    hidden = bytearray(len(text))
    for start, end in spans:
        hidden[start:end] = b"\1" * (end - start)
    for word in _ENCODED.finditer(text):
        if b"\1" in hidden[slice(*word.span())]:
            hidden[slice(*word.span())] = b"\1" * len(word[0])
    runs = re.finditer(rb"\x00+|\x01+", hidden)
    return "".join([MASK if hidden[run.start()] else text[slice(*run.span())] for run in runs])


def _decode_basic(word: str) -> Iterator[str]:
    try:
        decoded = a2b_base64(word.encode(), strict_mode=True).decode()
    except (Error, UnicodeError):
        return
    yield decoded
    yield decoded.partition(":")[2]
