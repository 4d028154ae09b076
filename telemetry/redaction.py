"""Masking of everything in a log record that resembles a secret.

This is the second line of defence; the first is that keys cannot be printed, and errors carry codes. It masks too much
rather than too little.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

MASK: Final = "***"
Plain = None | bool | int | float | str | list[Any] | dict[str, Any]

_MAX_DEPTH: Final = 6
_MAX_INT: Final = 2**63
_SUSPECT: Final = re.compile(
    r"wh(?P<kind>sec|sk)_[A-Za-z0-9+/=_-]+"
    r"|\b(?P<scheme>(?i:bearer))\s+[^\s,;\"']+"
    r"|(?P<jwt>\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*)"
    r"|(?P<long>[A-Za-z0-9+/_-]{32,}={0,2})",
)
_IDS: Final = re.compile(
    r"dlv_[0-9A-Z]{26}|rpl-[0-9a-z]{26}"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_SEPARATORS: Final = re.compile(r"[-_/]")


def scrub(text: str) -> str:
    """Mask signing secrets, bearer tokens, JWTs, and long base64 or hex that is not a known kind of id."""
    return _SUSPECT.sub(_masked, text)


def plain(value: object, depth: int = 0) -> Plain:
    """Return a value for a log: text masked, containers converted, any other object as the name of its type."""
    match value:
        case str() | datetime():
            text = str(value)
            return scrub(text if text.isascii() else text.encode(errors="replace").decode())
        case None | bool() | float():
            return value
        case int():
            return value if abs(value) < _MAX_INT else str(value)
        case Mapping() if depth < _MAX_DEPTH:
            items = cast("Mapping[object, object]", value).items()
            return {str(plain(key, depth + 1)): plain(item, depth + 1) for key, item in items}
        case list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return [plain(item, depth + 1) for item in cast("Iterable[object]", value)]
        case _:
            return f"<{type(value).__name__}>"


def _masked(found: re.Match[str]) -> str:
    if found["kind"]:
        return f"wh{found['kind']}_{MASK}"
    if found["scheme"]:
        return f"{found['scheme']} {MASK}"
    return found[0] if found["long"] and _is_plain_id(found["long"]) else MASK


def _is_plain_id(text: str) -> bool:
    """Return true for words and ids. Encoded bytes mix cases, or have no separator for 32 characters."""
    rest = _IDS.sub("", text)
    if len(rest) < 32:
        return True
    one_case = rest in (rest.lower(), rest.upper())
    return one_case and "+" not in rest and all(len(word) <= 32 for word in _SEPARATORS.split(rest))
