"""Errors of reading and changing configuration.

ConfigurationError
├── NotFoundError            no destination or credential has this name
├── MissingCredential        a destination names a credential that does not exist
├── InUseError               destinations still use the credential
├── PreconditionFailedError  the stored revision is not the expected one
└── WriteConflictError       other writers changed the entry during every try
"""

from typing import Final, Literal

Kind = Literal["destination", "credential"]


class ConfigurationError(Exception):
    """A rejected read or change; the text says why, and what to do."""


class NotFoundError(ConfigurationError):
    """No destination or credential has this name."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"the tenant has no {kind} of this name; see `oneprotect {kind} list`")


class MissingCredential(ConfigurationError):
    """A destination names a credential that does not exist."""

    def __init__(self) -> None:
        super().__init__("the tenant has no credential of this name; create it first, with `oneprotect credential set`")


class InUseError(ConfigurationError):
    """The credential is in use by `destinations`."""

    def __init__(self, destinations: tuple[str, ...]) -> None:
        names = ", ".join(destinations)
        super().__init__(f"destinations still use this credential: {names}; assign them another credential first")
        self.destinations: Final = destinations


class PreconditionFailedError(ConfigurationError):
    """The stored revision is not the one that the caller has seen."""

    def __init__(self) -> None:
        super().__init__("it has changed since you read it; read it again and retry")


class WriteConflictError(ConfigurationError):
    """Other writers changed the entry during every try."""

    def __init__(self) -> None:
        super().__init__("another client is changing it at the same time; read it again and retry")
