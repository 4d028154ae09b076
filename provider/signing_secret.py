"""Signing secret of one ref: the current key, and the previous key while a rollover lasts."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, Literal, final

from msgspec import Struct

from provider.opaque import Opaque
from provider.signing_keys import SigningKey

MAX_OVERLAP: Final = timedelta(days=30)
"""Longest time that a previous key may still sign (contract, section 5)."""

Slot = Literal["current", "previous"]
SLOTS: Final[tuple[Slot, Slot]] = ("current", "previous")


class KeyRollover(Struct, frozen=True):
    """State of the previous key at one moment."""

    active: bool
    """The previous key signs beside the current one."""
    expires_at: datetime | None
    """End of the rollover; None without a usable previous key."""
    misconfigured: bool
    """A previous key is present but unused, for a reason that the operator must fix."""


@final
class SigningSecret(Opaque):
    """Current key, previous key, and the version of the Secret that holds both."""

    __slots__ = ("__both", "__current", "previous_expires_at", "rollover_misconfigured", "version")

    def __init__(
        self,
        *,
        current: SigningKey,
        version: str,
        previous: SigningKey | None = None,
        previous_expires_at: datetime | None = None,
        rollover_misconfigured: bool = False,
    ) -> None:
        """Hold the keys, whose schemes may differ. `version` is the Secret's `uid/resourceVersion`.

        `rollover_misconfigured`: a previous key exists, but is malformed, repeats the current key, or never expires.
        """
        self.__current = (current,)
        self.__both = None if previous is None else (current, previous)
        self.version: Final = version
        self.previous_expires_at: Final = previous_expires_at
        self.rollover_misconfigured: Final = rollover_misconfigured

    def is_previous_valid(self, now: datetime) -> bool:
        """Return true if the previous key signs: `now < previous_expires_at <= now + 30 days`."""
        expires_at = self.previous_expires_at
        return self.__both is not None and expires_at is not None and now < expires_at <= now + MAX_OVERLAP

    def describe_rollover(self, now: datetime) -> KeyRollover:
        """Return the state of the previous key. An expiry more than 30 days ahead is misconfigured."""
        expires_at = self.previous_expires_at if self.__both is not None else None
        is_too_far = expires_at is not None and expires_at > now + MAX_OVERLAP
        return KeyRollover(self.is_previous_valid(now), expires_at, self.rollover_misconfigured or is_too_far)

    def fragments(self) -> Iterator[int]:
        """Yield the hashes of the pieces of both keys, also of a previous key that no longer signs."""
        for key in self.__both or self.__current:
            yield from key.fragments

    def select_keys(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return the keys that are valid at `now`, in the order of `SLOTS`. Raises `TypeError` without a time zone."""
        if now.tzinfo is None:  # otherwise the error would show only during a rollover
            raise TypeError("a time to sign at must have a time zone")
        both = self.__both
        return both if both is not None and self.is_previous_valid(now) else self.__current
