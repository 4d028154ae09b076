"""When a failed attempt is tried again. Pure: a policy and what happened go in, a number of seconds comes out."""

import random
from collections.abc import Callable
from typing import Final

from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from schemas.configuration import RetryPolicy

MAX_RETRY_AFTER_S: Final = 86_400.0
FINAL_CODES: Final = frozenset({Code.HTTP_410, Code.NET_BLOCKED})
"""The receiver is gone for good, or must not be called at all: another attempt would end the same way."""

MAX_SECRET_WAIT_S: Final = 3 * 86_400.0
"""How long a delivery waits for its secret before it is given up on."""

Spread = Callable[[float, float], float]


def next_wait_s(
    policy: RetryPolicy, *, tried: int, reply: WebhookResponse, spread: Spread = random.uniform
) -> float | None:
    """Seconds until the next attempt after `tried` ones, or None to give up.

    Never earlier than a receiver's Retry-After asks, as long as that is at most a day.
    """
    if reply.code in FINAL_CODES or tried > len(policy.schedule_s):
        return None
    wait_s = policy.schedule_s[tried - 1] * spread(1 - policy.jitter, 1 + policy.jitter)
    if reply.code is Code.NET_TIMEOUT:
        wait_s = max(wait_s, policy.after_timeout_s)
    return max(wait_s, min(reply.retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def total_wait_s(schedule_s: tuple[float, ...], waits: int) -> float:
    """Seconds that so many waits for a secret take, before jitter; the last step repeats."""
    beyond = max(0, waits - len(schedule_s))
    return sum(schedule_s[:waits]) + beyond * schedule_s[-1]


def secret_wait_s(
    schedule_s: tuple[float, ...], *, waits: int, waited_s: float, jitter: float, spread: Spread = random.uniform
) -> float | None:
    """Seconds until the secret is looked for again after `waits` times, or None when it has been long enough.

    The last step repeats. These waits use up none of the receiver's attempts.
    """
    if waited_s >= MAX_SECRET_WAIT_S:
        return None
    return schedule_s[min(waits, len(schedule_s) - 1)] * spread(1 - jitter, 1 + jitter)
