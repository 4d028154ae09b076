"""Quotas of tenants: the most that a tenant may have of something.

The server counts keys. A count is used the longer, the further it is from the limit and the more it costs. Writers may
therefore exceed a limit a little: by what they create in 0.4 s, at a limit of 20,000.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from messaging.kv import KvBucket
from messaging.kv_cache import SharedReads

MAX_AGE_S: Final = 30.0
COUNTED_PER_S: Final = 50_000
READ_PER_S: Final = 5000
"""Keys of a tenant that are counted, or read because some may be deleted, a second: a bound for the server's work."""
CREATED_PER_S: Final = 1000.0
"""The rate of creation that a count must survive: with room for 10,000 keys it is used for 10 seconds."""
MAX_TENANTS: Final = 4096


class QuotaExceeded(Exception):
    """A tenant has all that it may have of something. `remedy`: what the tenant can do itself."""

    def __init__(self, quota: str, used: int, limit: int, setting: str, *, remedy: str = "delete some") -> None:
        super().__init__(f"the tenant has {used:,} of {limit:,} {quota}; {remedy}, or have an operator raise {setting}")


class Quota:
    """The most that a tenant may have of what `count` counts."""

    def __init__(
        self,
        name: str,
        limit: int,
        count: Callable[[str], Awaitable[int]],
        *,
        setting: str,
        remedy: str = "delete some",
    ) -> None:
        self.name: Final = name
        self.limit: Final = limit
        self.count: Final = count
        """Returns how many a tenant has. Raises `JetStreamError`."""
        self._setting = setting
        self._remedy = remedy

    async def require_room(self, tenant: str) -> None:
        """Raise `QuotaExceeded` if the tenant has no room for a new one. Raises `JetStreamError`."""
        if (count := await self.count(tenant)) >= self.limit:
            raise self._exceeded(count)

    def _exceeded(self, count: int) -> QuotaExceeded:
        return QuotaExceeded(self.name, count, self.limit, self._setting, remedy=self._remedy)


class KeyQuota(Quota):
    """The most keys that a tenant may have in a bucket, for example 20,000 credentials."""

    def __init__(
        self,
        bucket: KvBucket,
        name: str,
        limit: int,
        *,
        setting: str,
        below: str = "*",
        prefix: str = "",
        reads: bool = True,
        remedy: str = "delete some",
    ) -> None:
        """`below`: pattern of the keys after the tenant; `prefix`: how the last part of a counted key begins.

        Without `reads` deleted keys are counted even at the limit, and no key is read: for millions of them.
        """
        super().__init__(name, limit, self._read_count, setting=setting, remedy=remedy)
        self._bucket = bucket
        self._below = below
        self._prefix = prefix
        self._reads = reads
        self._shared = SharedReads()
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Count by tenant, and the time until which it is used."""

    async def require_room(self, tenant: str, key: str | None = None) -> None:
        """Raise `QuotaExceeded` if the tenant has no room for `key`, unless it exists. Raises `JetStreamError`.

        Without `key` the caller creates a new one, which counts at once.
        """
        if self._counts.get(tenant, (0, 0.0))[1] < time.monotonic():
            await asyncio.shield(self._shared.begin(tenant, lambda: self._remember_count(tenant)))
        count, until = self._counts[tenant]
        if count >= self.limit and (key is None or await self._bucket.get(key) is None):
            raise self._exceeded(count)
        if key is None:
            self._counts[tenant] = count + 1, until

    async def _read_count(self, tenant: str) -> int:
        return (await self._read(tenant))[0]

    async def _remember_count(self, tenant: str) -> None:
        count, cost_s = await self._read(tenant)
        age_s = min(MAX_AGE_S, max(cost_s, (self.limit - count) / CREATED_PER_S))
        self._counts[tenant] = count, time.monotonic() + age_s
        if len(self._counts) > MAX_TENANTS:
            self._counts.popitem(last=False)

    async def _read(self, tenant: str) -> tuple[int, float]:
        """Return the count, and the time until it may be read again."""
        pattern = f"{tenant}.{self._below}"
        count = await self._bucket.count_keys(pattern)
        if not self._reads or (count < self.limit and not self._prefix):
            return count, count / COUNTED_PER_S
        # Deleted keys are counted as well, and keys without the prefix. The set has the keys only.
        keys = {entry.key async for entry in self._bucket.read(pattern)}
        return sum(key.rpartition(".")[2].startswith(self._prefix) for key in keys), count / READ_PER_S
