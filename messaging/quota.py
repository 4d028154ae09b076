"""Quotas of tenants: how many keys of a kind a tenant may have in a bucket.

The server counts the keys. A count is used the longer, the further it is from the limit and the more it costs. Writers
may therefore exceed a limit a little: by what they create in 0.4 s, at a limit of 20,000.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from messaging.kv import KvBucket

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


class KeyQuota:
    """The most keys that a tenant may have in a bucket, for example 20,000 destinations."""

    def __init__(
        self,
        bucket: KvBucket,
        name: str,
        limit: int,
        *,
        setting: str,
        below: str = "*",
        prefix: str = "",
        counts: Callable[[bytes], bool] | None = None,
        reads: bool = True,
        remedy: str = "delete some",
    ) -> None:
        """`below`: pattern of the keys after the tenant; `prefix`: how the last part of a counted key begins.

        `counts`: returns true for a value that counts, by default any. Without `reads` the server counts, deleted keys
        included, and no key is read: for millions of them.
        """
        self.name: Final = name
        self.limit: Final = limit
        self._bucket = bucket
        self._setting = setting
        self._below = below
        self._prefix = prefix
        self._counts_value = counts
        self._reads = reads
        self._remedy = remedy
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Count by tenant, and the time until which it is used."""

    async def require_room(self, tenant: str, key: str | None = None) -> None:
        """Raise `QuotaExceeded` if the tenant has no room for `key`, unless it exists. Raises `JetStreamError`.

        Without `key` the caller creates a new one, which counts at once.
        """
        count = await self._count(tenant)
        if count >= self.limit and (key is None or await self._bucket.get(key) is None):
            raise QuotaExceeded(self.name, count, self.limit, self._setting, remedy=self._remedy)
        if key is None:
            self._counts[tenant] = count + 1, self._counts[tenant][1]

    async def count(self, tenant: str) -> int:
        """Return how many keys the tenant has; near the limit without deleted ones. Raises `JetStreamError`."""
        return (await self._read(tenant))[0]

    async def _count(self, tenant: str) -> int:
        count, until = self._counts.get(tenant, (0, 0.0))
        if until < time.monotonic():
            count, cost_s = await self._read(tenant)
            age_s = min(MAX_AGE_S, max(cost_s, (self.limit - count) / CREATED_PER_S))
            self._counts[tenant] = count, time.monotonic() + age_s
            if len(self._counts) > MAX_TENANTS:
                self._counts.popitem(last=False)
        return count

    async def _read(self, tenant: str) -> tuple[int, float]:
        """Return the count, and the time until it may be read again."""
        pattern = f"{tenant}.{self._below}"
        if not self._reads:
            count = await self._bucket.count_keys(pattern)
            return count, count / COUNTED_PER_S
        keys = await self._bucket.list_keys(pattern)
        if (count := self._counted(keys)) < self.limit and (self._counts_value is None or not count):
            return count, len(keys) / COUNTED_PER_S
        entries = await self._bucket.list(pattern)
        counts = self._counts_value
        counted = [entry.key for entry in entries if counts is None or counts(entry.value or b"")]
        return self._counted(counted), len(keys) / READ_PER_S

    def _counted(self, keys: list[str]) -> int:
        return sum(key.rpartition(".")[2].startswith(self._prefix) for key in keys)
