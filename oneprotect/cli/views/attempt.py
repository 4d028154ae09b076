"""How an attempt looks on a terminal."""

from typing import Final

from rich.text import Text

from schemas.codes import Outcome
from schemas.events import AttemptResult

STYLES: Final = {
    Outcome.DELIVERED: "green",
    Outcome.RETRY_SCHEDULED: "yellow",
    Outcome.FAILED: "red",
    Outcome.SKIPPED: "magenta",
    Outcome.SUPPRESSED: "cyan",
}


def attempt_line(result: AttemptResult) -> Text:
    """One line: when, which delivery, which attempt, how it ended and why, how long it took, and when the next is."""
    line = Text()
    line.append(f"{result.started_at:%H:%M:%S} ", "dim")
    line.append(f"{result.destination:<12} {result.delivery} #{result.attempt} ")
    line.append(f"{result.outcome.value:<15} ", STYLES[result.outcome])
    line.append(f"{result.code.value:<18} {result.duration_ms:>8.1f} ms")
    if result.next_attempt_at:
        line.append(f"  next {result.next_attempt_at:%H:%M:%S}", "dim")
    if "previous" in result.signed_with:
        line.append("  rollover", "dim")
    return line
