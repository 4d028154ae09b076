"""Why a secret could not be had. These carry a code and no text, so there is nothing in them to leak.

SecretError
├── SecretRefused            kept as failed at once; somebody must mend it, then replay
│   ├── SecretRefInvalid     the ref does not follow the grammar
│   ├── SecretRefForbidden   its namespace is not one that may be read
│   ├── SecretMismatch       another tenant's, another purpose's, or not the object asked for
│   └── SecretMalformed      no key that can sign: missing, empty, not base64, too short or too long
└── SecretMissing            tried again on a slow schedule that uses up none of the receiver's attempts
    ├── SecretNotFound       no such Secret, or no such key in it
    ├── SecretDenied         this service account may not read it
    └── SecretUnavailable    the provider could not be asked
"""

from typing import ClassVar, Final

from schemas.codes import Code


class SecretError(Exception):
    """A secret could not be resolved. `retryable`: whether waiting can help."""

    code: ClassVar[Code]
    retryable: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return self.code.value


class SecretRefused(SecretError):
    """Waiting does not help."""

    retryable = False


class SecretMissing(SecretError):
    """Waiting may help."""

    retryable = True


class SecretRefInvalid(SecretRefused):
    """The ref does not follow the grammar."""

    code = Code.SECRET_REF_INVALID


class SecretRefForbidden(SecretRefused):
    """The ref's namespace is not one that may be read."""

    code = Code.SECRET_REF_FORBIDDEN


class SecretMismatch(SecretRefused):
    """The Secret is another tenant's, for another purpose, or not the object that was asked for."""

    code = Code.SECRET_MISMATCH


class SecretMalformed(SecretRefused):
    """The Secret holds no key that can sign."""

    code = Code.SECRET_MALFORMED


class SecretNotFound(SecretMissing):
    """There is no such Secret, or no such key in it."""

    code = Code.SECRET_NOT_FOUND


class SecretDenied(SecretMissing):
    """This service account may not read the Secret."""

    code = Code.SECRET_DENIED


class SecretUnavailable(SecretMissing):
    """The provider could not be asked, or gave no usable answer."""

    code = Code.SECRET_UNAVAILABLE


class ProviderMisconfigured(Exception):
    """A provider cannot be built from what the operator gave it, so the process should not start.

    `problem` is one of our own sentences about what to mend. It repeats nothing that was read.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem: Final = problem
