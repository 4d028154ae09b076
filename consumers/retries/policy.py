"""The retry policy: pure functions from a policy and a reply to a number of seconds, and the spread of the retries.

The server fires schedules one by one, and all that are due before it looks for others. So thousands of one tenant that
are due together would hold up the retries of others that are due a moment later. They become due one after the other.
"""

import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
from schemas.codes import Code
from schemas.configuration import RetryPolicy

FINAL_CODES: Final = frozenset({Code.HTTP_410, Code.NET_BLOCKED})
"""The receiver is gone for good, or must not be called at all: another attempt would end the same way."""
MAX_SECRET_WAIT_S: Final = 3 * 86_400.0
"""The longest that a delivery waits for its secret before it fails."""
HORIZON_S: Final = 600
"""Retries that are due later are not spread: the jitter of so long a wait does it."""
FIRST_PER_S: Final = 300
"""Room of a second until the server has fired more in time: the slowest disks allow about as many with fsync."""
MIN_PER_S: Final = 50
LATE_S: Final = 2.0
"""A schedule that is fired later has waited for others: the server cannot fire more than it does."""
PROMPT_S: Final = 1.0
GROWTH: Final = 4
"""A second gets room for so many times what was fired promptly. A tenant fills a third, so one alone lets it grow."""

Spread = Callable[[float, float], float]


def next_wait_s(
    policy: RetryPolicy, *, tried: int, reply: WebhookResponse, spread: Spread = random.uniform
) -> float | None:
    """Return the seconds until the next attempt after `tried` ones, or None to give up.

    They are not fewer than the receiver's `Retry-After`, of which at most a day counts. The jitter makes such a wait
    longer: a date that a receiver names for thousands of deliveries would make them all due in one second.
    """
    if reply.code in FINAL_CODES or tried > len(policy.schedule_s):
        return None
    wait_s = policy.schedule_s[tried - 1] * spread(1 - policy.jitter, 1 + policy.jitter)
    if reply.code is Code.NET_TIMEOUT:
        wait_s = max(wait_s, policy.after_timeout_s)
    return max(wait_s, min(reply.retry_after_s or 0.0, MAX_RETRY_AFTER_S) * spread(1, 1 + policy.jitter))


def total_wait_s(schedule_s: tuple[float, ...], waits: int) -> float:
    """Return the seconds that `waits` waits for a secret take, before jitter; the last step repeats."""
    beyond = max(0, waits - len(schedule_s))
    return sum(schedule_s[:waits]) + beyond * schedule_s[-1]


def secret_wait_s(
    schedule_s: tuple[float, ...], *, waits: int, waited_s: float, jitter: float, spread: Spread = random.uniform
) -> float | None:
    """Return the seconds until the secret is resolved again after `waits` waits, or None to give up.

    The last step repeats. Waits for a secret are not attempts on the receiver.
    """
    if waited_s >= MAX_SECRET_WAIT_S:
        return None
    return schedule_s[min(waits, len(schedule_s) - 1)] * spread(1 - jitter, 1 + jitter)


class _Second:
    """The retries that are due in one second."""

    __slots__ = ("counts", "later", "room", "total")

    def __init__(self, room: int) -> None:
        self.room = room
        """Room that it had at first. What was booked since leaves some to others, although the room shrinks."""
        self.total = 0
        self.counts: Counter[str] = Counter()
        """Retries of each tenant."""
        self.later: dict[str, int] = {}
        """Tenants without room here, and a later second that may have some."""


class RetrySpread:
    """The times at which the retries of one worker are due.

    The room of a second follows what the server fires in time, as seen by this worker.
    """

    __slots__ = ("_fired", "_fired_in", "_max_per_s", "_seconds", "late_s", "per_s")

    def __init__(self, max_per_s: int) -> None:
        """`max_per_s`: the most that a second may have. A tenant may fill half of what is free: alone a third."""
        self._max_per_s = max_per_s
        self.per_s = min(FIRST_PER_S, max_per_s)
        """Room of each second."""
        self.late_s = 0.0
        """How late the server fires, by the last retry."""
        self._fired = self._fired_in = 0
        """Retries that were fired in one second, and that second."""
        self._seconds: dict[int, _Second] = {}

    def note_fired(self, due_s: float, fired_s: float) -> None:
        """Note when the server fired a retry that was due at `due_s`, in Unix seconds by the server's clock."""
        self.late_s, second = max(0.0, fired_s - due_s), int(fired_s)
        if second > self._fired_in:
            if self._fired:
                self._adjust(self._fired)
            self._fired, self._fired_in = 0, second
        self._fired += 1

    def _adjust(self, fired: int) -> None:
        """Follow the number of retries that were fired in one second."""
        if self.late_s > LATE_S:
            if fired > MIN_PER_S:  # fewer were late for another reason than their number, such as an outage
                self.per_s = max(min(MIN_PER_S, self._max_per_s), min(self.per_s, fired * 4 // 5))
        elif self.late_s < PROMPT_S:
            self.per_s = min(self._max_per_s, max(self.per_s, fired * GROWTH))

    def due_after(self, tenant: str, wait_s: float, now: datetime) -> datetime:
        """Return the time of a retry that is due after `wait_s`, or later while too many of its tenant are.

        `now` is the time by the clock of the server that fires the schedules.
        """
        now_s = now.timestamp()
        wanted = int(now_s + wait_s)
        horizon = int(now_s) + HORIZON_S
        second, passed = wanted, list[_Second]()
        while second <= horizon:
            at = self._seconds.get(second) or self._add(second, int(now_s))
            later = at.later.get(tenant, 0)
            if not later and self._take(at, tenant):
                break
            passed.append(at)
            second = later or second + 1
        if not passed:
            return now + timedelta(seconds=wait_s)
        for at in passed:  # the next one comes here in one step
            at.later[tenant] = second
        return now + timedelta(seconds=second + random.random() - now_s)  # noqa: S311 - not for security

    def _add(self, second: int, present: int) -> _Second:
        for past in [known for known in self._seconds if known < present]:
            del self._seconds[past]
        added = self._seconds[second] = _Second(self.per_s)
        return added

    def _take(self, at: _Second, tenant: str) -> bool:
        """Count a retry, and return whether there is room for it."""
        mine = at.counts.get(tenant, 0) + 1
        if 2 * mine > max(at.room, self.per_s) - at.total or 3 * mine > self.per_s + 2:
            return False
        at.counts[tenant] = mine
        at.total += 1
        return True
