"""Rate limits: token buckets by key, and the limits of tenants, callers and requests in progress."""

import asyncio
import contextlib

import pytest

from messaging.token_buckets import MAX_KEYS, TokenBuckets
from oneprotect.api.web.problems import Problem
from oneprotect.api.web.rate_limits import TenantLimiter
from schemas.roles import ALL_TENANTS


class Clock:
    """A clock that a test advances."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _limiter(clock: Clock, *, tenant: float = 10, caller: float = 5, concurrent: int = 100) -> TenantLimiter:
    return TenantLimiter(tenant_per_s=tenant, caller_per_s=caller, max_concurrent=concurrent, clock=clock)


def _send(limiter: TenantLimiter, count: int, tenant: str = "acme", caller: str = "", *, of: str = "") -> int:
    """Return how many of `count` requests the limiter admits."""
    admitted = 0
    for _ in range(count):
        with contextlib.suppress(Problem), limiter.admit(tenant, caller, of=of):
            admitted += 1
    return admitted


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    """A refusal costs nothing, and says when the next request is allowed."""
    clock = Clock()
    limiter = _limiter(clock)

    assert _send(limiter, 100) == 20
    with pytest.raises(Problem) as refused, limiter.admit("acme"):
        pass
    assert refused.value.status == 429
    assert refused.value.headers == {"retry-after": "1"}
    clock.now += 1
    assert _send(limiter, 100) == 10


def test_a_tenant_at_its_limit_does_not_limit_another_one() -> None:
    """Neither tenant sees the requests of the other one."""
    limiter = _limiter(Clock())
    _send(limiter, 100)

    assert _send(limiter, 20, "other") == 20


def test_a_token_at_its_limit_leaves_the_tenants_rate_to_the_other_tokens() -> None:
    """A token has half of the tenant's rate here."""
    limiter = _limiter(Clock())

    assert _send(limiter, 100, caller="token:a") == 10
    assert _send(limiter, 100, caller="token:b") == 10


def test_a_caller_for_all_tenants_is_not_limited_by_the_tenants_own_requests() -> None:
    """An operator can act for a tenant whose producers flood the API."""
    limiter = _limiter(Clock())
    _send(limiter, 100)

    assert _send(limiter, 5, caller="token:operator", of=ALL_TENANTS) == 5


def test_requests_in_progress_are_limited_by_tenant() -> None:
    """A slow tenant waits for its own requests, and another tenant does not."""
    limiter = _limiter(Clock(), concurrent=2)
    with limiter.admit("acme"), limiter.admit("acme"):
        assert _send(limiter, 1) == 0
        assert _send(limiter, 1, "other") == 1
    assert _send(limiter, 1) == 1


def test_a_fan_out_delays_the_next_requests() -> None:
    """A delivery to 1,001 destinations costs 500 further requests."""
    clock = Clock()
    limiter = _limiter(clock)
    limiter.charge_fan_out("acme", 1001)

    assert _send(limiter, 1) == 0
    clock.now += 48.2
    assert _send(limiter, 1) == 1


def test_buckets_have_a_bounded_number_of_keys() -> None:
    """Invented keys push out the oldest keys only."""
    buckets = TokenBuckets(burst=1, per_s=0.001, clock=Clock())
    for number in range(MAX_KEYS + 1):
        buckets.take(f"key-{number}")

    assert buckets.wait_s("key-0") == 0
    assert buckets.wait_s("key-1") > 0


@pytest.mark.parametrize("dry_run", [False, True])
async def test_reads_of_some_tenants_leave_another_its_own(dry_run: bool) -> None:
    """Each tenant has its own reads in progress. What takes turns among tenants is each batch."""
    one = _limiter(Clock())
    async with contextlib.AsyncExitStack() as reading:
        for number in range(8):
            await reading.enter_async_context(one.read_turn(f"busy-{number}", dry_run=dry_run))
        async with asyncio.timeout(5), one.read_turn("quiet", dry_run=dry_run):
            pass
