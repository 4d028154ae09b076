"""A lease: of all that want to do the same thing, one does it at a time, and a dead one is not waited for long.

It is an entry that the server forgets by itself (`TTL_S`, its own clock) unless its holder keeps renewing it, each time
on condition that nobody else has written in between. So a process that was killed holds up the next one for `TTL_S` at
most, and two holders at once can't be: one that has not had its renewal confirmed in time takes itself for replaced.
"""

import asyncio
from typing import Final

import msgspec

from messaging.client.errors import JetStreamError, RejectedByServer
from messaging.kv import KvBucket, KvEntry, retry_conflicts

TTL_S: Final = 4
_MARGIN_S: Final = 2.0
"""So much sooner a holder stops trusting its lease: what it sent last has arrived before the next one looks."""


class LeaseHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a lease: on whose behalf, which run of it, and of a replay, which one."""

    by: str
    run: str
    replay: str = ""


class LeaseLost(JetStreamError):
    """Somebody else has the lease, or may have it by now."""

    def __init__(self) -> None:
        super().__init__("another process may have taken over meanwhile: the lease was not renewed in time")


class Lease:
    """The lease `key` of a bucket, for `holder`."""

    def __init__(self, bucket: KvBucket, key: str, holder: LeaseHolder) -> None:
        self._bucket = bucket
        self._key = key
        self._holder = msgspec.json.encode(holder)
        self._held_until = 0.0
        self.revision = 0

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have it yet."""
        return asyncio.get_running_loop().time() < self._held_until

    async def take(self) -> LeaseHolder | None:
        """Take it if it is free: None when it is ours now, or else who has it. Raises `JetStreamError`."""

        async def write() -> LeaseHolder | None:
            entry = await self._bucket.find(self._key)
            if entry.value and entry.value != self._holder:
                return _holder(entry)
            await self._write(entry.revision)
            return None

        return await retry_conflicts(write)

    async def renew(self) -> None:
        """Keep it. Raises `LeaseLost`, or `JetStreamError` when it can't be known: then try again."""
        try:
            await self._write(self.revision)
        except RejectedByServer:
            pass
        else:
            return
        entry = await self._bucket.find(self._key)
        if entry.value == self._holder:  # ours was the last write, only its answer got lost
            self.revision = entry.revision
        else:
            self._held_until = 0.0
            raise LeaseLost

    async def release(self) -> None:
        """Let the next one have it at once, if it is still ours."""
        self._held_until = 0.0
        try:
            await self._bucket.put(self._key, b"", revision=self.revision, ttl_s=1)
        except RejectedByServer:
            return

    async def _write(self, revision: int) -> None:
        # Counted from before it was sent: the server's count can only have begun later.
        held_until = asyncio.get_running_loop().time() + TTL_S - _MARGIN_S
        self.revision = await self._bucket.put(self._key, self._holder, revision=revision, ttl_s=TTL_S)
        self._held_until = held_until


async def find_holder(bucket: KvBucket, key: str) -> LeaseHolder | None:
    """Who has the lease `key`. Raises `JetStreamError`."""
    entry = await bucket.find(key)
    return _holder(entry) if entry.value else None


def _holder(entry: KvEntry) -> LeaseHolder:
    """Who has the lease that `entry` is."""
    try:
        return msgspec.json.decode(entry.value or b"", type=LeaseHolder)
    except msgspec.DecodeError:
        return LeaseHolder(replay="of another version", by="somebody", run="")
