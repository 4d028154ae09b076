"""Results of checks."""

from enum import StrEnum
from typing import Final

from msgspec import Struct, field


class CheckStatus(StrEnum):
    """Severity of a result."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CheckResult(Struct, frozen=True):
    """Result of a check. `remedy` has one or more lines: instructions, where possible as commands."""

    group: str
    name: str
    status: CheckStatus
    finding: str
    remedy: str | None = field(default=None, name="mending")


class CheckGroup:
    """Factory of results for the checks of one subject."""

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def ok(self, name: str, finding: str) -> CheckResult:
        """Return the result of a check that found no problem."""
        return CheckResult(self.name, name, CheckStatus.OK, finding)

    def warning(self, name: str, finding: str, remedy: str) -> CheckResult:
        """Return a problem that does not stop deliveries yet."""
        return CheckResult(self.name, name, CheckStatus.WARNING, finding, remedy)

    def failed(self, name: str, finding: str, remedy: str) -> CheckResult:
        """Return a problem that affects deliveries."""
        return CheckResult(self.name, name, CheckStatus.FAILED, finding, remedy)

    def unknown(self, name: str, finding: str, remedy: str | None = None) -> CheckResult:
        """Return the result of a check that was not possible."""
        return CheckResult(self.name, name, CheckStatus.UNKNOWN, finding, remedy)
