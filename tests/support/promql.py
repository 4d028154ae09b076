"""The metrics and labels that a PromQL expression uses."""

import itertools

import promql_parser
from msgspec import Struct

_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


class Selector(Struct, frozen=True):
    """A metric, with its label matchers as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    is_range: bool = False


class Asked(Struct, frozen=True):
    """The selectors of an expression, and the labels that its aggregations group by."""

    selectors: tuple[Selector, ...]
    grouped: frozenset[str]


def read(expression: str) -> Asked:
    """Parse an expression. Raises `ValueError` when it is malformed or selects no metric."""
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "5m")), nodes.append)
    selectors = tuple(
        _selector(node, is_range=isinstance(parent, promql_parser.MatrixSelector))
        for parent, node in itertools.pairwise([None, *nodes])
        if isinstance(node, promql_parser.VectorSelector)
    )
    if not selectors:
        raise ValueError("the expression selects no metric")
    groupings = (node.modifier for node in nodes if isinstance(node, promql_parser.AggregateExpr) and node.modifier)
    return Asked(selectors, frozenset(label for grouping in groupings for label in grouping.labels))


def _selector(node: promql_parser.VectorSelector, *, is_range: bool) -> Selector:
    matchers = tuple((one.name, _OPERATORS[str(one.op)], one.value) for one in node.matchers.matchers)
    return Selector(node.name or "", matchers, is_range)
