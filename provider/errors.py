"""Errors of secret resolution. They carry a code and no text, so nothing can leak through them.

A `SecretRefused` delivery is given up at once: the operator fixes the cause and replays. A `SecretMissing` delivery is
retried on a slow schedule that uses none of the receiver's attempts.
"""

from typing import ClassVar, Final

from schemas.codes import Code


class SecretError(Exception):
    """Failure to resolve a secret."""

    code: ClassVar[Code]
    retryable: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return self.code.value


class SecretRefused(SecretError):
    """Failure that waiting does not fix."""

    retryable = False


class SecretMissing(SecretError):
    """Failure that waiting may fix."""

    retryable = True


class SecretRefInvalid(SecretRefused):
    """Ref outside the grammar."""

    code = Code.SECRET_REF_INVALID


class SecretRefForbidden(SecretRefused):
    """Ref to a namespace that is not allowed."""

    code = Code.SECRET_REF_FORBIDDEN


class SecretMismatch(SecretMissing):
    """Secret of another tenant or purpose, or another object than the requested one.

    It is retried exactly as a missing one: otherwise a tenant could learn which Secrets of other tenants exist.
    """

    code = Code.SECRET_MISMATCH


class SecretMalformed(SecretRefused):
    """No key that can sign: missing, empty, not base64, too short or too long."""

    code = Code.SECRET_MALFORMED


class SecretNotFound(SecretMissing):
    """No such Secret, or no such key in the Secret."""

    code = Code.SECRET_NOT_FOUND


class SecretDenied(SecretMissing):
    """Secret that the service account may not read."""

    code = Code.SECRET_DENIED


class SecretUnavailable(SecretMissing):
    """Missing or unusable answer of the provider."""

    code = Code.SECRET_UNAVAILABLE


class ProviderMisconfigured(Exception):
    """Provider that cannot be built from its configuration, so that the process should not start.

    `problem` is a fixed sentence of this package. It repeats nothing that was read.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem: Final = problem
