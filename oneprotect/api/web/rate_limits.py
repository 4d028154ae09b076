"""Limits on the requests of tenants and callers, in the memory of one process.

Every API process has limits of its own. An installation with three processes therefore allows three times the rate.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Final, TypeVar

from messaging import direct_get
from messaging.tenant_turns import FairTurns, TooManyWaiting
from messaging.token_buckets import TokenBuckets
from oneprotect.api.web.body_turns import BodyTurns
from oneprotect.api.web.problems import Problem, too_many
from schemas.roles import ALL_TENANTS

T = TypeVar("T")

BURST_S: Final = 2.0
"""The time without requests after which the requests of this time are allowed at once."""
MAX_READS_PER_TENANT: Final = 2
"""Lists and searches of a tenant in progress: each has its rows in memory."""
MAX_READS: Final = 64
MAX_WAITING_READS: Final = 8
"""Lists and searches of one tenant that wait to begin."""
MAX_BATCHES: Final = 4
"""Batches of rows that a process reads at a time for all lists, searches and dry runs."""
MAX_DRY_RUNS: Final = 16
"""Pages of dry runs that a process reads at a time, one of each tenant; a page has thousands of rows in memory."""
REFUSAL_DELAY_S: Final = 0.5
"""The time after which a further read is refused, so that a client that repeats it at once costs little."""
FAN_OUT_SHARE: Final = 0.5
"""The cost of each further delivery of a fan-out, in requests."""
ANONYMOUS_PER_S: Final = 100.0
"""Requests of an address a second without a valid token or session. A proxy that is not trusted is one address."""
ANONYMOUS_BURST: Final = 500.0


class TenantLimiter:
    """The rate of each tenant's requests, the rate of each caller, and the requests of each tenant in progress.

    A caller for all tenants, such as an operator, does not share the limits of the tenant that it acts for. It has the
    same limits once more for each tenant, and no limit of its own.
    """

    def __init__(
        self,
        *,
        tenant_per_s: float,
        caller_per_s: float,
        max_concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants = _buckets(tenant_per_s, clock)
        self._callers = _buckets(caller_per_s, clock)
        self._anonymous = TokenBuckets(burst=ANONYMOUS_BURST, per_s=ANONYMOUS_PER_S, clock=clock)
        self._max_concurrent = max_concurrent
        self._reads = FairTurns(MAX_READS, per_tenant=MAX_READS_PER_TENANT, max_waiting=MAX_WAITING_READS)
        self._dry_runs = FairTurns(MAX_DRY_RUNS, per_tenant=1, max_waiting=MAX_WAITING_READS)
        self._batches = FairTurns(MAX_BATCHES, per_tenant=MAX_READS_PER_TENANT)
        self.bodies: Final = BodyTurns()
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def admit(self, tenant: str, caller: str = "", *, of: str = "") -> Generator[None]:
        """Count a request for `tenant` while the context is open. Raises `Problem` 429 beyond a limit.

        Args:
            caller: The id of the caller, if it has a limit of its own.
            of: The tenant of the caller, if it differs: `*` for callers for all tenants.
        """
        key = key_of(tenant, of)
        if of == ALL_TENANTS:
            caller = ""
        if wait_s := self._tenants.wait_s(key):
            raise too_many("The tenant sends too many requests.", wait_s)
        if caller and (wait_s := self._callers.wait_s(caller)):
            raise too_many("This token sends too many requests.", wait_s)
        if self._running[key] >= self._max_concurrent:
            raise too_many(f"The tenant has {self._max_concurrent} requests in progress.", 1)
        self._tenants.take(key)
        if caller:
            self._callers.take(caller)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def admit_anonymous(self, address: str) -> None:
        """Count a request without a valid token or session. Raises `Problem` 429 beyond the limit of its address."""
        if wait_s := self._anonymous.wait_s(address):
            raise too_many("This address sends too many requests without a token.", wait_s)
        self._anonymous.take(address)

    @contextlib.asynccontextmanager
    async def read_turn(self, tenant: str, *, of: str = "", dry_run: bool = False) -> AsyncGenerator[None]:
        """Wait until the tenant may read a list, search, or read a page of a dry run.

        Each batch of rows then waits for a turn, so that another tenant waits for a few batches at most.
        Raises `Problem` 429 if too many wait.
        """
        turns, key = self._dry_runs if dry_run else self._reads, key_of(tenant, of)
        async with contextlib.AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(turns.turn(key))
            except TooManyWaiting:
                problem: Problem | None = too_many(f"{MAX_WAITING_READS} lists and searches of the tenant wait.", 1)
            else:
                problem = None
            if problem is not None:
                await asyncio.sleep(REFUSAL_DELAY_S)
                raise problem
            with direct_get.in_turns(lambda: self._batches.turn(key)):
                yield

    async def read(self, tenant: str, work: Callable[[], Awaitable[T]], *, of: str) -> T:
        """Return what `work` returns, which reads a list or searches when the tenant may."""
        async with self.read_turn(tenant, of=of):
            return await work()

    def is_exhausted(self, tenant: str) -> bool:
        """Return whether the tenant's next request would exceed its rate."""
        return self._tenants.wait_s(tenant) > 0

    def charge_fan_out(self, tenant: str, deliveries: int) -> None:
        """Count the deliveries of a fan-out beyond the first one, so that the next requests wait for them."""
        self._tenants.take(tenant, max(0, deliveries - 1) * FAN_OUT_SHARE)


def key_of(tenant: str, of: str) -> str:
    """Return the key of a tenant's limits, or of those that a caller for all tenants has."""
    return f"{ALL_TENANTS}.{tenant}" if of == ALL_TENANTS else tenant


def _buckets(per_s: float, clock: Callable[[], float]) -> TokenBuckets:
    return TokenBuckets(burst=max(1.0, per_s * BURST_S), per_s=per_s, clock=clock)
