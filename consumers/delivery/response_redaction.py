"""A receiver's response as operators may see it: its beginning, without the credentials that the request carried.

A broken receiver may echo the request, in any encoding, and may print the key itself. So the text is decoded as far as
a reader would. It is searched for fragments of the known values, also with separators, and as hex, base64 or numbers.
Then what looks like a secret is masked, also in lines, groups or numbers. Too much is masked rather than too little.
Each step takes time in proportion to the text, which is bounded. A text that would still take long is not shown.
"""

import functools
import re
from binascii import Error, a2b_base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from provider.fragments import (
    FRAGMENT,
    GROUP,
    LETTERS_ONLY,
    MAX_ESCAPES,
    STEP,
    UNSPACED,
    HashedBytes,
    Pieces,
    Reading,
    TooManyEscapes,
    count_escapes,
    decode_escapes,
    find_groups,
    join_readings,
    one_byte_each,
    split,
)
from provider.opaque import Opaque
from telemetry.redaction import MASK, scrub

SHOWN_CHARACTERS: Final = 1024

_SEARCHED_CHARACTERS: Final = SHOWN_CHARACTERS + 512
"""More than is shown, so that a secret across the end of the shown part is found."""
_SHORTEST: Final = 4
"""A shorter value is no secret, and would mask half the text."""
_MAX_WORK: Final = 1200
"""Limit of known groups in a text, and two for each run of them. An echo of one value has 620, in both readings."""
_MAX_KNOWN: Final = 4096
"""Characters of known values, in all readings together."""
_MAX_VALUES: Final = 300
"""Limit of known values, empty ones and repetitions included."""
_GROUPED: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[ :,\-]\s?){11,}[0-9A-Fa-f]{2}|(?:[0-9]{1,3},\s?){11,}[0-9]{1,3}")
_IN_LINES: Final = re.compile(
    r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]++(?:[^\S\n]*+\n\s*+[A-Za-z0-9+/=_-]++)+"  # a word is tried once
)
_NUMBERS: Final = re.compile(r"[0-9]+")
_SIGNED_NUMBERS: Final = re.compile(r"-?[0-9]+")
_MIXED: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
_ALL: Final = frozenset(range(256))
_NOT_HEX: Final = bytes(_ALL - frozenset(b"0123456789ABCDEFabcdef"))
_NOT_BASE64: Final = bytes(_ALL - frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/"))
_FROM_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
_MARKS: Final = bytes(
    byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/=_-" for byte in range(256)
)
"""1 for a character of a word."""
_HIDE: Final = bytes(byte | 2 for byte in range(256))
_HIDDEN: Final = re.compile(rb"(?:(?<![\x01\x03])\x01*+\x03[\x01\x03]*+|\x02)+")
"""Hidden characters, and the rest of the words that they touch."""

_KEPT: Final = {reading: bytes(byte not in reading[1] for byte in range(256)) for reading in (UNSPACED, LETTERS_ONLY)}
"""The readings of a view, with 1 for each byte that they keep."""

Span = tuple[int, int]


class KnownValues(Opaque):
    """Values that no text may show, prepared for the search."""

    __slots__ = ("are_too_many", "readings", "short")

    def __init__(self, values: Iterable[str]) -> None:
        """Prepare `values`; those that are too short to be a secret are left out."""
        few = list(islice(values, _MAX_VALUES + 1))
        self.short = {value for value in few if _SHORTEST <= len(value) < FRAGMENT}
        self.readings = b""
        long = {value for value in few if len(value) >= FRAGMENT}
        self.are_too_many = len(few) > _MAX_VALUES or count_escapes("".join(long)) > MAX_ESCAPES
        if not self.are_too_many:
            self.readings = join_readings([value.encode() for value in long])
            self.are_too_many = len(self.readings) > _MAX_KNOWN


@functools.lru_cache(maxsize=1024)
def values_of_destination(url: str, headers: tuple[str, ...]) -> KnownValues:
    """Return what every request to a destination carries: parts of its URL, and the values of its headers."""
    return KnownValues(
        chain(credential_candidates_in_url(url), chain.from_iterable(map(credential_candidates_in_header, headers)))
    )


def redact_response(
    body: bytes, *, known: Iterable[str], fragments: Iterable[int] = (), destination: KnownValues | None = None
) -> str:
    """Return the beginning of `body`, with known values and what looks like a secret masked.

    Args:
        body: The beginning of the response, at most a few KiB.
        known: Values that this request carried.
        fragments: The hashes of the pieces of the key, which is not known here. A text with a fragment is not shown.
        destination: Values that each request to the destination carries.
    """
    try:
        text = _join_surrogates(decode_escapes(body.decode(errors="replace")).replace("\0", ""))
    except TooManyEscapes:
        return MASK
    if len(text) < _SHORTEST:
        return text
    text = text[:_SEARCHED_CHARACTERS]
    sent, destination = KnownValues(known), destination or KnownValues(())
    if sent.are_too_many or destination.are_too_many:
        return MASK
    spans = _find_known(text, sent, destination, fragments)
    if spans is None:
        return MASK
    # All in the whole text: a mask would break the lines or groups that make the rest look like a secret.
    spans += [*_find_in_lines(text), *(found.span() for found in _GROUPED.finditer(text))]
    return scrub(_mask(text, spans))[:SHOWN_CHARACTERS]


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
    source: Callable[[], tuple[Sequence[int], Sequence[int]]]
    """Returns where the source characters begin and end in the text; called only when something is found."""
    size: tuple[int, int] = (1, 1)

    def spans(self, reading: Reading, found: Iterable[Span]) -> Iterator[Span]:
        """Yield the spans of the text for what was found in a reading of this view."""
        begins, ends = self.source()
        kept = list(compress(range(len(self.data)), self.data.translate(_KEPT[reading])))
        characters, count = self.size
        for start, end in found:
            first, last = kept[start], kept[end - 1]
            yield begins[first * characters // count], ends[((last + 1) * characters - 1) // count]


_split_of_destination: Final = functools.lru_cache(maxsize=64)(split)  # two each, of at most 400 KB


def _find_known(text: str, sent: KnownValues, destination: KnownValues, hashes: Iterable[int]) -> list[Span] | None:
    """Return where known values are, or None if the text has a fragment of the key, or takes too long to search."""
    spans = list(islice(_find_short(text, sent.short | destination.short), _MAX_WORK + 1))
    if (work := len(spans)) > _MAX_WORK:
        return None
    keys: Pieces = frozenset(map(HashedBytes, hashes))
    groups = _split_of_destination(destination.readings, GROUP).union(keys, split(sent.readings, GROUP))
    fragments: Pieces = frozenset()
    for view in _views(text):
        for reading in _KEPT:
            read = view.data.translate(*reading)
            starts = find_groups(read, groups)
            if not starts:
                continue
            runs = _join(starts)
            work += len(starts) + 2 * len(runs)
            if work > _MAX_WORK:
                return None
            if _has_fragment(read, starts, keys):
                return None  # the rest of the key may follow in a form that is not recognized
            if not fragments:
                fragments = _split_of_destination(destination.readings, FRAGMENT) | split(sent.readings, FRAGMENT)
            if found := _find_fragments(read, runs, fragments):
                spans += view.spans(reading, found)
    return spans


def _has_fragment(read: bytes, groups: Iterable[int], pieces: Pieces) -> bool:
    own = [(at, at + STEP) for at in groups if read[at : at + GROUP] in pieces]
    return any(_find_fragments(read, [run], pieces) for run in own)


def _find_fragments(read: bytes, runs: Iterable[Span], fragments: Pieces) -> list[Span]:
    """Return where there are fragments that contain groups of these runs.

    Of a run of three groups and more, only the first and the last fragments are verified.
    """
    found: list[Span] = []
    for begin, behind in runs:
        first, end = max(begin + GROUP - FRAGMENT, 0), min(behind + GROUP - FRAGMENT, len(read) - FRAGMENT + 1)
        verified = (
            range(first, end) if end - first <= 2 * STEP else (*range(first, first + STEP), *range(end - STEP, end))
        )
        starts = [at for at in verified if read[at : at + FRAGMENT] in fragments]
        if len(verified) < end - first:
            starts += first + STEP, end - STEP - 1
        if starts:
            found.append((min(starts), max(starts) + FRAGMENT))
    return found


def _join(groups: Sequence[int]) -> list[Span]:
    """Return the runs of groups: where the first begins, and where the step of the last ends."""
    begins = [at for at, before in zip(groups, [-1, *groups[:-1]], strict=True) if at != before + STEP]
    ends = [at + STEP for at, following in zip(groups, [*groups[1:], -1], strict=True) if following != at + STEP]
    return list(zip(begins, ends, strict=True))


def _views(text: str) -> Iterator[_View]:
    plain = one_byte_each(text)
    yield _View(plain, lambda: (range(len(plain)), range(1, len(plain) + 1)))
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
        yield _View(bytes.fromhex(pairs.decode()), functools.partial(_source_without, plain, _NOT_HEX, start), (2, 1))


def _base64_views(plain: bytes) -> Iterator[_View]:
    """Yield the bytes of all base64 characters, of which any may begin a group of four."""
    characters = plain.translate(None, _NOT_BASE64)
    for start in range(4):
        groups = characters[start : len(characters) - (len(characters) - start) % 4]
        yield _View(a2b_base64(groups), functools.partial(_source_without, plain, _NOT_BASE64, start), (4, 3))


def _number_view(text: str, form: re.Pattern[str]) -> _View:
    """Return the bytes of all numbers; a longer number breaks their sequence."""
    data = bytes([int(number) & 0xFF if len(number) <= 4 else 0xFF for number in form.findall(text)])
    return _View(data, functools.partial(_source_of_numbers, text, form))


def _source_of_numbers(text: str, form: re.Pattern[str]) -> tuple[Sequence[int], Sequence[int]]:
    found = list(form.finditer(text))
    return [number.start() for number in found], [number.end() for number in found]


def _source_without(plain: bytes, skipped: bytes, start: int) -> tuple[Sequence[int], Sequence[int]]:
    kept = bytes(byte not in skipped for byte in range(256))
    begins = list(compress(range(len(plain)), plain.translate(kept)))[start:]
    return begins, [begin + 1 for begin in begins]


def _find_short(text: str, values: Iterable[str]) -> Iterator[Span]:
    """Yield where values are that are too short for a fragment."""
    for value in values:
        at = text.find(value) if len(value) < FRAGMENT else -1
        while at >= 0:
            yield at, at + len(value)
            at = text.find(value, at + 1)


def _find_in_lines(text: str) -> Iterator[Span]:
    """Yield what looks like a secret when lines that follow each other are joined."""
    for lines in _IN_LINES.finditer(text):
        joined = "".join(lines[0].split())
        if len(joined) >= 32 and all(kind.search(joined) for kind in _MIXED):
            yield lines.span()


def _mask(text: str, spans: Sequence[Span]) -> str:
    """Mask `spans`, and the rest of the words that they touch."""
    if not spans:
        return text
    marks = bytearray(text.encode("latin-1", "replace").translate(_MARKS))
    for start, end in spans:
        marks[start:end] = marks[start:end].translate(_HIDE)
    parts, at = list[str](), 0
    for hidden in _HIDDEN.finditer(marks):
        parts += text[at : hidden.start()], MASK
        at = hidden.end()
    return "".join([*parts, text[at:]])


def _join_surrogates(text: str) -> str:
    """Return `text` with a character for two surrogates, as JSON escapes them; without the other it is replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _decode_basic(word: str) -> Iterator[str]:
    try:
        decoded = a2b_base64(word.encode(), strict_mode=True).decode()
    except (Error, UnicodeError):
        return
    yield decoded
    yield decoded.partition(":")[2]
