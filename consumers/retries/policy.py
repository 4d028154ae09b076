"""The retry policy: pure functions from a policy and a reply to a number of seconds."""

import random
from collections.abc import Callable
from typing import Final

from consumers.http_client.response import MAX_RETRY_AFTER_S, WebhookResponse
from schemas.codes import Code
from schemas.configuration import RetryPolicy

FINAL_CODES: Final = frozenset({Code.HTTP_410, Code.NET_BLOCKED})
"""The receiver is gone for good, or must not be called at all: another attempt would end the same way."""
MAX_SECRET_WAIT_S: Final = 3 * 86_400.0
"""The longest that a delivery waits for its secret before it fails."""

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
