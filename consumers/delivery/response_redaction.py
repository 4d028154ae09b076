"""A receiver's response as operators may see it: its beginning, without the credentials that the request carried.

A broken receiver may echo the request, in any encoding, and may know the secret itself. So the text is decoded as far
as a reader would. Then known values are masked, whole or in pieces, and then what looks like a secret, also in lines,
groups or numbers. Too much is masked rather than too little.
"""

import html
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from telemetry.redaction import MASK, scrub

SHOWN_CHARACTERS: Final = 1024

_MAX_DECODINGS: Final = 3
_PIECE: Final = 8
"""Characters in a row of a known value that are masked."""
_SHORTEST: Final = 4
"""A shorter value is no secret, and would mask half the text."""
_ESCAPES: Final = re.compile(r"""\\(?:u(?P<u>[0-9A-Fa-f]{4})|x(?P<x>[0-9A-Fa-f]{2})|(?P<plain>[/\\"'nrt]))""")
_CONTROL: Final = {"n": "\n", "r": "\n", "t": "\t"}
_GROUPED: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[ :,\-]\s?){11,}[0-9A-Fa-f]{2}|(?:[0-9]{1,3},\s?){11,}[0-9]{1,3}")
_IN_LINES: Final = re.compile(r"[A-Za-z0-9+/=_-]{4,}(?:\s*\n\s*[A-Za-z0-9+/=_-]{4,})+")
_MIXED: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


def redact_response(body: bytes, *, known: Iterable[str]) -> str:
    """Return the beginning of `body`, with `known` values and what looks like a secret masked."""
    text = _mask_known(_decoded(body.decode(errors="replace")), {value for value in known if len(value) >= _SHORTEST})
    text = _IN_LINES.sub(_masked_if_mixed, _GROUPED.sub(MASK, text))
    return scrub(text)[:SHOWN_CHARACTERS]


def credential_candidates_in_url(url: str) -> Iterator[str]:
    """Yield what may be a credential in a URL: user and password, long path segments, and query values."""
    parts = urlsplit(url)
    for part in (parts.username, parts.password, parts.path, parts.query, parts.fragment):
        yield part or ""
        yield unquote(part or "")
    yield from (unquote(part) for part in parts.path.split("/") if len(part) >= _PIECE)
    for pair in parts.query.split("&"):
        yield unquote(pair.partition("=")[2].replace("+", " "))


def credential_candidates_in_header(value: str) -> Iterator[str]:
    """Yield a header's value and its long parts, such as the token after `Bearer`."""
    yield value
    yield from (part for part in value.split() if len(part) >= _PIECE)


def _decoded(text: str) -> str:
    for _ in range(_MAX_DECODINGS):
        once = unquote(html.unescape(_ESCAPES.sub(_unescaped, text)), errors="replace")
        if once == text:
            break
        text = once
    return text


def _unescaped(found: re.Match[str]) -> str:
    code = found["u"] or found["x"]
    return chr(int(code, 16)) if code else _CONTROL.get(found["plain"], found["plain"])


def _mask_known(text: str, known: set[str]) -> str:
    """Mask each value, and each piece of one that is too long to match by accident."""
    hidden = bytearray(len(text))
    for value in known:
        size = min(len(value), _PIECE)
        for start in range(len(value) - size + 1):
            piece = value[start : start + size]
            at = text.find(piece)
            while at >= 0:
                hidden[at : at + size] = b"\1" * size
                at = text.find(piece, at + 1)
    runs = re.finditer(rb"\x00+|\x01+", hidden)
    return "".join([MASK if hidden[run.start()] else text[slice(*run.span())] for run in runs])


def _masked_if_mixed(found: re.Match[str]) -> str:
    joined = re.sub(r"\s", "", found[0])
    return MASK if len(joined) >= 32 and all(kind.search(joined) for kind in _MIXED) else found[0]
