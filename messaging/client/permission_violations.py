"""Permission violations, reported at once to the callers that wait for a reply.

The server answers a forbidden publish with an error on the connection only, so the caller would wait until its timeout.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from typing import Final, Literal

import msgspec

from messaging.client.errors import NotAllowed

_VIOLATION: Final = re.compile(
    r'permissions violation for (?P<verb>publish|subscription)(?: with reply)? (?:of|to) "(?P<subject>[^"]+)"'
)


class PermissionViolation(msgspec.Struct, frozen=True):
    """A forbidden operation. `subject` is in lower case, as the client library reports it."""

    verb: Literal["publish", "subscription"]
    subject: str

    @classmethod
    def from_error(cls, error: str) -> "PermissionViolation | None":
        """Return the violation in an error text of the server, or None for any other error."""
        found = _VIOLATION.search(error.lower())
        return found and cls("publish" if found["verb"] == "publish" else "subscription", found["subject"])


class PermissionViolations:
    """Reports violations to the callers that they concern."""

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox_prefix = inbox_prefix
        self._callbacks: list[Callable[[PermissionViolation], None]] = []
        self.count = 0
        """Violations so far."""
        self.ack_subscription_error: NotAllowed | None = None
        """Set when this user may not subscribe to its inbox, so that no reply can arrive."""

    def on_violation(self, callback: Callable[[PermissionViolation], None]) -> None:
        """Call `callback` with each violation from now on."""
        self._callbacks.append(callback)

    def report(self, violation: PermissionViolation) -> None:
        """Pass a violation that the server reported to all callbacks."""
        self.count += 1
        if violation.verb == "subscription" and violation.subject.startswith(f"{self._inbox_prefix}.".lower()):
            self.ack_subscription_error = NotAllowed(
                f"not allowed: this user lacks subscribe on {self._inbox_prefix}.>, so it receives no replies; "
                "set ONEPROTECT_NATS_INBOX_PREFIX to the prefix that the user has"
            )
        for callback in tuple(self._callbacks):
            callback(violation)

    def forget(self) -> None:
        """Forget the inbox violation: a new connection may have other permissions."""
        self.ack_subscription_error = None

    def error_for(self, violation: PermissionViolation, subject: str) -> NotAllowed | None:
        """Return the error for a caller that published to `subject` and awaits a reply, or None."""
        if self.ack_subscription_error is not None:
            return self.ack_subscription_error
        if violation != PermissionViolation("publish", subject.lower()):
            return None
        return NotAllowed(
            f"not allowed: this user lacks publish on {subject}; see deploy/nats for each role's permissions"
        )

    @contextlib.asynccontextmanager
    async def guard(self, subject: str) -> AsyncGenerator[None]:
        """Run a block that publishes to `subject` and awaits a reply; raise `NotAllowed` on a violation."""
        error = self.ack_subscription_error
        if error is not None:
            raise error

        def on_violation(violation: PermissionViolation) -> None:
            nonlocal error
            error = error or self.error_for(violation, subject)
            if error is not None:
                scope.reschedule(0)

        self._callbacks.append(on_violation)
        try:
            async with asyncio.timeout(None) as scope:
                yield
        except TimeoutError:
            if error is None:
                raise
        finally:
            self._callbacks.remove(on_violation)
        if error is not None:
            raise error
