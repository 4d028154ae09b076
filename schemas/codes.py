"""Closed sets of values: outcomes, codes, and the status of a credential (contract, section 3)."""

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """The result of an attempt."""

    DELIVERED = "delivered"
    RETRY_SCHEDULED = "retry_scheduled"
    FAILED = "failed"
    SKIPPED = "skipped"
    SUPPRESSED = "suppressed"


class Code(StrEnum):
    """The reason of an outcome: ``area.reason``."""

    HTTP_2XX = "http.2xx"
    HTTP_3XX = "http.3xx"
    HTTP_4XX = "http.4xx"
    HTTP_410 = "http.410"
    HTTP_429 = "http.429"
    HTTP_5XX = "http.5xx"

    NET_DNS = "net.dns"
    NET_REFUSED = "net.refused"
    NET_RESET = "net.reset"
    NET_TLS = "net.tls"
    NET_TIMEOUT = "net.timeout"
    NET_BLOCKED = "net.blocked"
    NET_RESPONSE_TOO_LARGE = "net.response_too_large"

    SECRET_REF_INVALID = "secret.ref_invalid"
    SECRET_REF_FORBIDDEN = "secret.ref_forbidden"
    SECRET_MISMATCH = "secret.mismatch"
    SECRET_NOT_FOUND = "secret.not_found"
    SECRET_MALFORMED = "secret.malformed"
    SECRET_DENIED = "secret.denied"
    SECRET_UNAVAILABLE = "secret.unavailable"

    DESTINATION_NOT_FOUND = "destination.not_found"
    DESTINATION_DISABLED = "destination.disabled"

    EVENT_INVALID = "event.invalid"
    INTERNAL = "internal"

    @property
    def public(self) -> "Code":
        """The code for tenants. The true reason would reveal which Secrets of other tenants exist."""
        return Code.SECRET_UNAVAILABLE if self in _HIDDEN_CODES else self

    @classmethod
    def of_http_status(cls, status: int) -> "Code":
        """Return the code of a receiver's status. The client skips 1xx responses before this."""
        match status:
            case 410:
                return cls.HTTP_410
            case 429:
                return cls.HTTP_429
            case _ if 200 <= status < 300:
                return cls.HTTP_2XX
            case _ if 300 <= status < 400:
                return cls.HTTP_3XX
            case _ if 400 <= status < 500:
                return cls.HTTP_4XX
            case _:
                return cls.HTTP_5XX


class CredentialStatus(StrEnum):
    """The result of the last check of a credential."""

    CONFIGURED = "configured"
    MISSING = "missing"
    MISMATCH = "mismatch"
    MALFORMED = "malformed"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    UNCHECKED = "unchecked"

    @property
    def public(self) -> "CredentialStatus":
        """The status for tenants; see `Code.public`."""
        return CredentialStatus.UNAVAILABLE if self in _HIDDEN_STATUSES else self


_HIDDEN_CODES: Final = frozenset(
    {Code.SECRET_NOT_FOUND, Code.SECRET_DENIED, Code.SECRET_MISMATCH, Code.SECRET_REF_FORBIDDEN}
)
_HIDDEN_STATUSES: Final = frozenset({CredentialStatus.MISSING, CredentialStatus.DENIED, CredentialStatus.MISMATCH})
