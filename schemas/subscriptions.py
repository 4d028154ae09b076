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


class SubscriptionIndex:
    """The subscribers of each pattern. Finding those of an event type costs as much as there are, and its parts."""

    def __init__(self) -> None:
        self._names: dict[str, str | set[str]] = {}
        """Subscribers by pattern; most patterns have one, and a name needs a quarter of the memory of a set."""

    def add(self, name: str, patterns: Iterable[str]) -> None:
        """Add a subscriber to each of `patterns`."""
        for pattern in patterns:
            names = self._names.setdefault(pattern, name)
            if isinstance(names, set):
                names.add(name)
            elif names != name:
                self._names[pattern] = {names, name}

    def remove(self, name: str, patterns: Iterable[str]) -> None:
        """Remove a subscriber from each of `patterns`, where it is one."""
        for pattern in patterns:
            names = self._names.get(pattern)
            if isinstance(names, set):
                names.discard(name)
            if not names or names == name:
                self._names.pop(pattern, None)

    def find(self, event_type: str) -> list[str]:
        """Return the sorted subscribers of which a pattern matches `event_type`."""
        found: set[str] = set()
        prefixes = (event_type[: end + 1] + "*" for end, character in enumerate(event_type) if character == ".")
        for pattern in (event_type, "*", *prefixes):
            names = self._names.get(pattern)
            if names is not None and matches(pattern, event_type):
                found.update(names if isinstance(names, set) else (names,))
        return sorted(found)
