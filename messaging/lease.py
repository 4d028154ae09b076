"""Leases: one holder at a time, and a short wait after a holder has died.

A lease is a bucket entry that the server deletes after its lifetime, by its own clock, unless the holder renews it.
Each renewal expects the holder's own last revision. A killed process blocks the next holder for one lifetime at most.
A holder whose renewal is not confirmed in time considers its lease lost, so there are never two holders.

After a kill that follows an orderly stop, the server may forget to delete an entry (nats-server 2.15). So an entry that
a process has seen without a renewal for longer than its lifetime is free, too.
"""

from typing import Final

import msgspec

from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.client.term import Term, clock
from messaging.kv import KvBucket, KvEntry, retry_conflicts

TTL_S: Final = 4
"""Lifetime of a lease, unless the holder chooses another."""
OVERDUE_S: Final = 3.0
"""Time beyond its lifetime after which an entry is free although the server has not deleted it."""
_MARGIN_S: Final = 2.0
"""Time before the expiry at which a holder stops: its last messages arrive before the next holder reads."""


class LeaseHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of a lease: its name, the run, and for a replay its id."""

    by: str
    run: str
    replay: str = ""


class LeaseLost(JetStreamError):
    """A lease that another process has, or may have."""

    def __init__(self) -> None:
        super().__init__("the lease was not renewed in time; another process may hold it")


class Lease:
    """The lease `key` of a bucket, for one holder."""

    def __init__(self, bucket: KvBucket, key: str, holder: LeaseHolder, *, ttl_s: int = TTL_S) -> None:
        self._ttl_s = ttl_s
        self._bucket = bucket
        self._key = key
        self._holder = msgspec.json.encode(holder)
        self.term: Final = Term(0.0)
        """Until when no other process can hold the lease, as far as the server has confirmed it."""
        self.revision = 0

    @property
    def is_held(self) -> bool:
        """True while no other process can hold the lease."""
        return clock() < self.term.until

    async def acquire(self) -> LeaseHolder | None:
        """Acquire the lease if it is free.

        Returns:
            None after acquiring it, or else the current holder.
        """

        async def write() -> LeaseHolder | None:
            entry = await self._bucket.find(self._key)
            if entry.value and entry.value != self._holder and not is_overdue(self._bucket, entry, self._ttl_s):
                return _holder(entry)
            await self._write(entry.revision)
            return None

        return await retry_conflicts(write)

    async def renew(self) -> None:
        """Renew the lease. Raises `LeaseLost`, or another `JetStreamError` when the result is unknown: then retry."""
        try:
            await self._write(self.revision)
        except RejectedByServer:
            pass
        else:
            return
        entry = await self._bucket.find(self._key)
        if entry.value == self._holder:  # the last write was stored, and its acknowledgement lost
            self.revision = entry.revision
        else:
            self.term.until = 0.0
            raise LeaseLost

    async def release(self) -> None:
        """Let the next holder acquire the lease at once, if this process still holds it."""
        self.term.until = 0.0
        try:
            await self._bucket.put(self._key, b"", revision=self.revision, ttl_s=1)
        except RejectedByServer:
            return

    async def _write(self, revision: int) -> None:
        # Measured from before the write: the server starts its clock later.
        held_until = clock() + self._ttl_s - _MARGIN_S
        self.revision = await self._bucket.put(self._key, self._holder, revision=revision, ttl_s=self._ttl_s)
        self.term.until = held_until


def is_overdue(bucket: KvBucket, entry: KvEntry, ttl_s: int) -> bool:
    """Return whether this process has seen an entry without a renewal for longer than its lifetime of `ttl_s`."""
    return bucket.seen_s(entry) > ttl_s + OVERDUE_S


async def find_holder(bucket: KvBucket, key: str) -> LeaseHolder | None:
    """Return the holder of the lease `key`, or None. Raises `JetStreamError`."""
    entry = await bucket.find(key)
    return _holder(entry) if entry.value else None


def _holder(entry: KvEntry) -> LeaseHolder:
    try:
        return msgspec.json.decode(entry.value or b"", type=LeaseHolder)
    except msgspec.DecodeError:
        return LeaseHolder(replay="(unknown)", by="a process of another version", run="")
