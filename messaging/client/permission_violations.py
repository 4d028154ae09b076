"""What this user is not allowed to do, told at once to whoever waits for what would have come of it.

A server answers a publish that a user lacks the permission for with an error on the connection, and whoever waits for
an answer to it would wait until its patience is over. Here the error finds them.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from typing import Final, Literal

import msgspec

from messaging.client.errors import NotAllowed

_DENIED: Final = re.compile(
    r'permissions violation for (?P<verb>publish|subscription)(?: with reply)? (?:of|to) "(?P<subject>[^"]+)"'
)


class PermissionViolation(msgspec.Struct, frozen=True):
    """What a server said this user may not do. `subject` is in lower case, as the client library tells it."""

    verb: Literal["publish", "subscription"]
    subject: str

    @classmethod
    def of(cls, error: str) -> "PermissionViolation | None":
        """What an error of the server's denies, or None when it is about something else."""
        found = _DENIED.search(error.lower())
        return found and cls("publish" if found["verb"] == "publish" else "subscription", found["subject"])


class PermissionViolations:
    """Brings what is denied to those whom it concerns."""

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox_prefix = inbox_prefix
        self._callbacks: list[Callable[[PermissionViolation], None]] = []
        self.ack_subscription_error: NotAllowed | None = None
        """Why no answer can be heard at all, if that is so."""

    def call(self, callback: Callable[[PermissionViolation], None]) -> None:
        """Call `callback` with each denial from now on."""
        self._callbacks.append(callback)

    def hear(self, denial: PermissionViolation) -> None:
        """The server has denied something."""
        if denial.verb == "subscription" and denial.subject.startswith(f"{self._inbox_prefix}.".lower()):
            self.ack_subscription_error = NotAllowed(
                f"not allowed: this user lacks subscribe on {self._inbox_prefix}.>, so it hears no answers; "
                "set ONEPROTECT_NATS_INBOX_PREFIX to the prefix that the user has"
            )
        for callback in tuple(self._callbacks):
            callback(denial)

    def forget(self) -> None:
        """Permissions may be others on a new connection; what is refused there, we hear again."""
        self.ack_subscription_error = None

    def refusal(self, denial: PermissionViolation, subject: str) -> NotAllowed | None:
        """What a denial means to somebody who published to `subject` and waits for an answer; None: nothing."""
        if self.ack_subscription_error is not None:
            return self.ack_subscription_error
        if denial != PermissionViolation("publish", subject.lower()):
            return None
        return NotAllowed(f"not allowed: this user lacks publish on {subject}; deploy/nats says what each role may do")

    @contextlib.asynccontextmanager
    async def unless(self, subject: str) -> AsyncGenerator[None]:
        """Run a block that publishes to `subject` and waits for an answer. Raises `NotAllowed` as soon as it is."""
        refusal = self.ack_subscription_error
        if refusal is not None:
            raise refusal

        def hear(denial: PermissionViolation) -> None:
            nonlocal refusal
            refusal = refusal or self.refusal(denial, subject)
            if refusal is not None:
                scope.reschedule(0)

        self._callbacks.append(hear)
        try:
            async with asyncio.timeout(None) as scope:
                yield
        except TimeoutError:
            if refusal is None:
                raise
        finally:
            self._callbacks.remove(hear)
        if refusal is not None:
            raise refusal
