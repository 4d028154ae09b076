"""What one look found."""

from enum import StrEnum
from typing import Final

from msgspec import Struct


class CheckStatus(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CheckResult(Struct, frozen=True):
    """One thing that was looked at. `mending` is one or more lines: what to do, most of all the command."""

    group: str
    name: str
    status: CheckStatus
    finding: str
    mending: str | None = None


class CheckGroup:
    """Checks on the same thing."""

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def ok(self, name: str, finding: str) -> CheckResult:
        """All is well."""
        return CheckResult(self.name, name, CheckStatus.OK, finding)

    def warning(self, name: str, finding: str, mending: str) -> CheckResult:
        """It works, and should not stay like this."""
        return CheckResult(self.name, name, CheckStatus.WARNING, finding, mending)

    def failed(self, name: str, finding: str, mending: str) -> CheckResult:
        """Deliveries suffer from it."""
        return CheckResult(self.name, name, CheckStatus.FAILED, finding, mending)

    def unknown(self, name: str, finding: str, mending: str | None = None) -> CheckResult:
        """It could not be looked at."""
        return CheckResult(self.name, name, CheckStatus.UNKNOWN, finding, mending)
