"""Renewal of claims: an id that a producer named is remembered for as long as its delivery waits.

The bucket forgets a claim some time after its last write. A delivery may wait longer than that: for attempts, in the
overflow, or in an ordered queue. So one consumer at a time reads what waits, several times in that period, and writes
the claims again. A message that moves meanwhile may be missed: the next reading finds it in time.
"""

import asyncio
import random
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from consumers.delivery.named_ids import NamedIds, digest_of_request
from consumers.model.request import RetryState
from consumers.retries.server_clock import ServerClock
from messaging import direct_get
from messaging.client.connection import NatsConnection
from messaging.direct_get import StoredMessage
from messaging.kv import KvBucket
from messaging.lease import Lease, LeaseHolder
from messaging.periodic import pause, run_every
from schemas import streams
from schemas.events import PING, decode_request
from schemas.headers import CLAIMED, HEADER_CHECKED, HEADER_REPLAY

READINGS: Final = 4
"""Readings in the time for which an id is remembered. Two may fail."""
ASK_INTERVAL_S: Final = 60.0
READING_SHARE: Final = 0.2
"""Share of the time in which a consumer reads and renews: other work comes first."""
AT_A_TIME: Final = 64
_KEY: Final = "_named_ids.renewal"
"""Of the lease, which lasts from one reading to the next. No tenant has that name."""
_PLACES: Final = (streams.OVERFLOW, streams.WORK, streams.ORDERED, streams.RETRIES)


class ClaimRenewal:
    """Renews the claims of waiting deliveries, in turn with other consumers."""

    def __init__(
        self,
        connection: NatsConnection,
        ids: NamedIds,
        leases: KvBucket,
        clock: ServerClock,
        *,
        worker: str,
        window_s: float,
    ) -> None:
        """`window_s`: the time for which an id is remembered."""
        self._connection = connection
        self._ids = ids
        self._leases = leases
        self._clock = clock
        self._worker = worker
        self._interval_s = window_s / READINGS
        self.renewed = 0
        """Claims that were written again so far."""

    async def run(self, stop: asyncio.Event) -> None:
        """Read what waits, soon after the start and then when it is time, until `stop` is set."""
        interval_s = min(ASK_INTERVAL_S, self._interval_s / 4)
        await pause(interval_s * random.uniform(0.2, 1), stop)  # noqa: S311 - no secret; a start has enough to do
        await run_every(interval_s, lambda: self.take_turn(stop), stop, failure_event="claims.unavailable")

    async def take_turn(self, stop: asyncio.Event) -> None:
        """Read everything that waits, until `stop` is set, unless it is too early. Raises `JetStreamError`."""
        holder = LeaseHolder(by=self._worker, run=secrets.token_hex(8))
        lease = Lease(self._leases, _KEY, holder, ttl_s=max(1, int(self._interval_s)))
        if await lease.acquire() is not None:
            return
        is_complete = False
        try:
            await self._clock.measure()
            is_complete = await self._renew_all(stop)
        finally:
            if not is_complete:
                await lease.release()

    async def _renew_all(self, stop: asyncio.Event) -> bool:
        """Renew the claims of all that waits. Returns False if `stop` came first."""
        loop = asyncio.get_running_loop()
        before = self._clock.now() - timedelta(seconds=self._interval_s)
        for stream in _PLACES:
            sequence, has_more = 1, True
            while has_more:
                if stop.is_set():
                    return False
                began = loop.time()
                records, has_more = await direct_get.read_batch(
                    self._connection, stream.name, ">", first_sequence=sequence, size=direct_get.BATCH
                )
                if not records:
                    break
                await self._renew(records, before)
                sequence = records[-1].sequence + 1
                await asyncio.sleep((loop.time() - began) * (1 / READING_SHARE - 1) if has_more else 0)
        return True

    async def _renew(self, records: Iterable[StoredMessage], before: datetime) -> None:
        """Renew the claims of those of `records` that were accepted `before` a time."""
        old = [one for one in records if _may_have_claim(one)]
        for start in range(0, len(old), AT_A_TIME):
            renewing = (self._renew_one(one, before) for one in old[start : start + AT_A_TIME])
            self.renewed += sum(await asyncio.gather(*renewing))

    async def _renew_one(self, record: StoredMessage, before: datetime) -> bool:
        try:
            request, state = decode_request(record.data), RetryState.from_headers(record.headers)
        except ValueError:  # it is quarantined when it is handled
            return False
        accepted_at = min(request.time, record.stored_at, state.first_attempt_at or record.stored_at)
        if accepted_at > before or request.data.event_type == PING:
            return False
        is_stored = HEADER_CHECKED in record.headers
        key = f"{request.tenant}.{request.data.destination}.{request.id}"
        return await self._ids.renew(key, digest_of_request(request), accepted_at, is_stored=is_stored)


def _may_have_claim(record: StoredMessage) -> bool:
    """Return false for what the API has made an id for, and for what a replay requested."""
    return record.headers.get(HEADER_CHECKED, CLAIMED) == CLAIMED and HEADER_REPLAY not in record.headers
