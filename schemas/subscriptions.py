"""Subscriptions: matching event types against a destination's `event_types`."""

from collections.abc import Iterable
from typing import Final

OPERATIONAL: Final = "oneprotect."
"""Prefix of the events about the tenant's own destinations, credentials and replays."""
AUDIT: Final = ("oneprotect.config.", "oneprotect.quarantine.")
"""Prefixes of the audit trail."""
_RESERVED: Final = (OPERATIONAL, *AUDIT)


def matches(pattern: str, event_type: str) -> bool:
    """Return true if an `EventPattern` matches `event_type`.

    `*` matches every type except those below `oneprotect.`. `oneprotect.*` matches these, except the audit trail, which
    needs a pattern of its own, such as `oneprotect.config.*`.
    """
    if not pattern.endswith("*"):
        return pattern == event_type
    prefix = pattern[:-1]
    return event_type.startswith(prefix) and all(
        prefix.startswith(reserved) for reserved in _RESERVED if event_type.startswith(reserved)
    )


def asks_for(patterns: Iterable[str], event_type: str) -> bool:
    """Return true if one of a destination's `event_types` matches `event_type`."""
    return any(matches(pattern, event_type) for pattern in patterns)
