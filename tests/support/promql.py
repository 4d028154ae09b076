"""Enough of PromQL to know what an expression asks for: its metrics, the labels it names, and that it is well formed.

https://prometheus.io/docs/prometheus/latest/querying/basics/ - what is not understood is an error, not a guess.
"""

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

FUNCTIONS: Final = frozenset({"rate", "increase", "delta", "absent", "histogram_quantile", "label_values"})
AGGREGATIONS: Final = frozenset({"sum", "max", "min", "avg", "count"})
KEYWORDS: Final = frozenset({"and", "or", "unless", "offset"})
GROUPINGS: Final = frozenset({"by", "without", "on", "ignoring"})

_TOKEN: Final = re.compile(
    r"""\s+
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<range>\[(?:[0-9]+[smhd]|\$__rate_interval)\])
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?P<unit>[smhd])?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator>==|!=|>=|<=|=~|!~|[-+*/><=])
    | (?P<mark>[(){},])""",
    re.VERBOSE,
)
_PAIRS: Final = {")": "(", "}": "{"}


class BadExpression(ValueError):
    """It is no PromQL that is understood here."""


class Selector(Struct, frozen=True):
    """A metric that is asked for, with what its labels are compared to, as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    is_range: bool = False


class Asked(Struct, frozen=True):
    """What an expression asks for. `grouped`: the labels that it groups by."""

    selectors: tuple[Selector, ...]
    grouped: frozenset[str]


def read(expression: str) -> Asked:
    """Understand an expression. Raises `BadExpression`."""
    tokens = list(_tokens(expression))
    _check_pairs(tokens)
    selectors: list[Selector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "name" and text in GROUPINGS:
            end = tokens.index(("mark", ")"), at)
            grouped |= {word for what, word in tokens[at + 2 : end] if what == "name"}
            at = end
        elif kind == "name" and text not in KEYWORDS and not (following == "(" or following in GROUPINGS):
            selector, at = _selector(tokens, at)
            selectors.append(selector)
        elif kind == "name" and text not in FUNCTIONS | AGGREGATIONS | KEYWORDS:
            raise BadExpression(f"no such function: {text}")
        at += 1
    if not selectors:
        raise BadExpression("it asks for no metric")
    return Asked(tuple(selectors), frozenset(grouped))


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise BadExpression(f"not understood from {expression[at : at + 20]!r} on")
        at = found.end()
        kind = found.lastgroup if found.lastgroup != "unit" else "number"
        if kind:
            yield kind, found[kind]


def _check_pairs(tokens: list[tuple[str, str]]) -> None:
    stack: list[str] = []
    for kind, text in tokens:
        if kind == "mark" and text in "({":
            stack.append(text)
        elif kind == "mark" and text in _PAIRS and (not stack or stack.pop() != _PAIRS[text]):
            raise BadExpression(f"a {text} too many")
    if stack:
        raise BadExpression(f"a {stack[-1]} is not closed")


def _selector(tokens: list[tuple[str, str]], at: int) -> tuple[Selector, int]:
    """The selector that begins at `at`, and the place of its last token."""
    metric, matchers = tokens[at][1], list[tuple[str, str, str]]()
    if tokens[at + 1 : at + 2] == [("mark", "{")]:
        end = tokens.index(("mark", "}"), at)
        inside = [token for token in tokens[at + 2 : end] if token != ("mark", ",")]
        for place in range(0, len(inside), 3):
            (what, label), (_, operator), (kind, value) = inside[place : place + 3]
            if (what, kind) != ("name", "string") or operator not in ("=", "!=", "=~", "!~"):
                raise BadExpression(f"a matcher of {metric} is not understood")
            matchers.append((label, operator, value[1:-1]))
        at = end
    is_range = at + 1 < len(tokens) and tokens[at + 1][0] == "range"
    return Selector(metric, tuple(matchers), is_range), at + is_range
