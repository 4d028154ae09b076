"""One attempt: of which delivery, when it began, and when it ended."""

import time
from datetime import UTC, datetime

from consumers.model.request import DeliveryAttemptRequest


class DeliveryAttempt:
    """Begins when it is made; each clock is read once then, and once at its end, for all who want to know."""

    __slots__ = (
        "delivery",
        "duration_ms",
        "ended_at",
        "ended_s",
        "resolved_s",
        "started_at",
        "started_monotonic_s",
        "started_s",
        "taken_s",
    )

    def __init__(self, delivery: DeliveryAttemptRequest, began_s: float) -> None:
        """`started_monotonic_s`: now, by `time.monotonic`."""
        self.delivery = delivery
        self.started_monotonic_s = began_s
        self.started_s = self.ended_s = time.time()
        """Seconds since 1970; `started_at` and `ended_at` say the same."""
        self.started_at = self.ended_at = datetime.fromtimestamp(self.started_s, UTC)
        self.taken_s = self.duration_ms = 0.0
        self.resolved_s: float | None = None
        """How long it took until the secret was there; None without one."""

    def end(self) -> None:
        """It has ended: how, the result says."""
        self.taken_s = time.monotonic() - self.started_monotonic_s
        self.duration_ms = int(self.taken_s * 1_000_000 + 0.5) / 1000  # `round` takes three times as long
        self.ended_s = time.time()
        self.ended_at = datetime.fromtimestamp(self.ended_s, UTC)
