"""Which event types a destination's `event_types` ask for."""

from collections.abc import Iterable
from typing import Final

OPERATIONAL: Final = "oneprotect."
"""What happened to the tenant's own destinations, credentials and replays."""
AUDIT: Final = ("oneprotect.config.", "oneprotect.quarantine.")
"""Who changed what."""
_RESERVED: Final = (OPERATIONAL, *AUDIT)


def matches(pattern: str, event_type: str) -> bool:
    """Whether an `EventPattern` means `event_type`: that very type, all below `prefix.*`, or with `*` all of them.

    Nobody gets our own events by surprise: a wildcard reaches those below `oneprotect.`, and below that the audit
    trail, only when it names them itself, as in `oneprotect.*` and `oneprotect.config.*`.
    """
    if not pattern.endswith("*"):
        return pattern == event_type
    prefix = pattern[:-1]
    return event_type.startswith(prefix) and all(
        prefix.startswith(reserved) for reserved in _RESERVED if event_type.startswith(reserved)
    )


def asks_for(patterns: Iterable[str], event_type: str) -> bool:
    """Whether one of a destination's `event_types` means `event_type`; with none given, none does."""
    return any(matches(pattern, event_type) for pattern in patterns)
