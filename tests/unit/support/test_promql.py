"""The metrics and labels of a PromQL expression."""

import pytest

from tests.support.promql import Selector, read


def test_an_expression_is_read() -> None:
    """Selectors come with their matchers and ranges, beside the labels of the aggregations."""
    asked = read('max by (stream) (a{x="1",y=~"b|c"}) > 0 and sum(rate(d_total[$__rate_interval])) / sum(e offset 30m)')

    assert asked.selectors == (
        Selector("a", (("x", "=", "1"), ("y", "=~", "b|c"))),
        Selector("d_total", (), is_range=True),
        Selector("e"),
    )
    assert asked.grouped == {"stream"}


@pytest.mark.parametrize("expression", ["sum(a", "frobnicate(a)", "1 + 1"])
def test_a_malformed_expression_is_refused(expression: str) -> None:
    """A syntax error, an unknown function and an expression without a metric raise."""
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are the parser's own
        read(expression)
