"""What one look found."""

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Status(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Check(Struct, frozen=True):
    """One thing that was looked at. `mending` is one or more lines: what to do, most of all the command."""

    group: str
    name: str
    status: Status
    finding: str
    mending: str | None = None


class Group:
    """Checks on the same thing."""

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def ok(self, name: str, finding: str) -> Check:
        """All is well."""
        return Check(self.name, name, Status.OK, finding)

    def warning(self, name: str, finding: str, mending: str) -> Check:
        """It works, and should not stay like this."""
        return Check(self.name, name, Status.WARNING, finding, mending)

    def failed(self, name: str, finding: str, mending: str) -> Check:
        """Deliveries suffer from it."""
        return Check(self.name, name, Status.FAILED, finding, mending)

    def unknown(self, name: str, finding: str, mending: str | None = None) -> Check:
        """It could not be looked at."""
        return Check(self.name, name, Status.UNKNOWN, finding, mending)
