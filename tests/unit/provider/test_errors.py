"""Errors: a code, and nothing that could leak."""

import pytest

from provider import errors
from provider.errors import SecretError, SecretMissing, SecretRefused
from schemas.codes import Code

LEAVES = [
    (errors.SecretRefInvalid, Code.SECRET_REF_INVALID, False),
    (errors.SecretRefForbidden, Code.SECRET_REF_FORBIDDEN, False),
    (errors.SecretMismatch, Code.SECRET_MISMATCH, True),
    (errors.SecretMalformed, Code.SECRET_MALFORMED, False),
    (errors.SecretNotFound, Code.SECRET_NOT_FOUND, True),
    (errors.SecretDenied, Code.SECRET_DENIED, True),
    (errors.SecretUnavailable, Code.SECRET_UNAVAILABLE, True),
]


@pytest.mark.parametrize(("kind", "code", "retryable"), LEAVES)
def test_each_error_shows_its_code(kind: type[SecretError], code: Code, retryable: bool) -> None:
    """An error shows its code and whether it is temporary, and nothing else."""
    error = kind()

    assert (error.code, error.retryable, str(error), error.args) == (code, retryable, code.value, ())
    assert issubclass(kind, SecretMissing if retryable else SecretRefused)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in LEAVES])
def test_an_error_accepts_no_text(kind: type[SecretError]) -> None:
    """No caller can put a value into an error."""
    with pytest.raises(TypeError):
        kind("a value")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the point of the test


def test_every_secret_code_has_its_error() -> None:
    """The codes of the area `secret` and the errors are the same set."""
    codes = {code for code in Code if code.value.startswith("secret.")}

    assert {code for _, code, _ in LEAVES} == codes
