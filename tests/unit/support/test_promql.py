"""The reader of expressions finds what they ask for, and refuses what is wrong."""

import pytest

from tests.support.promql import BadExpression, Selector, read


def test_what_an_expression_asks_for() -> None:
    """Metrics with their matchers and ranges, and the labels that are grouped by."""
    asked = read('max by (stream) (a{x="1",y=~"b|c"}) > 0 and sum(rate(d_total[5m])) / sum(e offset 30m) == 0')

    assert asked.selectors == (
        Selector("a", (("x", "=", "1"), ("y", "=~", "b|c"))),
        Selector("d_total", (), is_range=True),
        Selector("e"),
    )
    assert asked.grouped == {"stream"}


@pytest.mark.parametrize(
    "expression", ["sum(a", "a)", "a{x=1}", "a{x}", "frobnicate(a)", "1 > 0", "a[5 minutes]", "a{b='c'}", "a ? b"]
)
def test_what_is_no_expression(expression: str) -> None:
    """A slip of the hand is an error."""
    with pytest.raises((BadExpression, ValueError)):
        read(expression)
