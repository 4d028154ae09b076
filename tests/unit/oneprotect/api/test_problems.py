"""Problems: what an exception becomes, and what it no longer holds."""

import gc
import weakref

import pytest

from messaging.client.errors import ServerUnavailable
from oneprotect.api.web.problems import Problem, broken_rule, problem_of


class _Body:
    """A request's body."""


def _refuse(cause: Exception | None, found: list[Problem]) -> "weakref.ref[_Body]":
    body = _Body()
    try:
        try:
            raise cause or broken_rule("payload", "expected JSON")
        except ServerUnavailable as error:
            raise broken_rule("payload", "expected JSON") from error
    except Problem as error:
        problem = problem_of(error)
        found.append(problem)
    return weakref.ref(body)


@pytest.mark.parametrize("cause", [None, ServerUnavailable("no reply")])
def test_a_problem_holds_no_body(cause: Exception | None) -> None:
    """Neither the problem nor the cause keeps the frames in which the body lives, also before a collection."""
    gc.disable()
    try:
        found: list[Problem] = []
        body = _refuse(cause, found)
        assert body() is None
    finally:
        gc.enable()
    assert found[0].status == 422
