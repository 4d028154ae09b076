"""Shares of the work stream: a tenant with much due work publishes to the overflow, before it delays the others.

The work stream is one queue for all tenants, so its length is everybody's delay. Each process that publishes requests
looks at the stream about once a second, and only for tenants that publish much. It may be that late.
"""

import asyncio
from typing import Final

import structlog

from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from schemas import streams, subjects

LOOK_AFTER: Final = 100
"""Requests of a tenant after which this process looks at its due work."""
INTERVAL_S: Final = 1.0
VALID_S: Final = 5.0
"""Time for which a tenant counts as over its share without another look."""
TENANTS_AT_FULL_SHARE: Final = 4
"""With more due work than as many full shares, the shares shrink."""
SMALLEST_SHARE: Final = 20
"""A share shrinks to this part of a full one at most."""
MAX_TENANTS: Final = 10_000

_log = structlog.get_logger(__name__)


class _Tenant:
    __slots__ = ("is_over", "looked_at", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.looked_at = 0.0
        self.is_over = False


class WorkShare:
    """The tenants whose due work exceeds their share."""

    def __init__(self, connection: NatsConnection, full_share: int) -> None:
        """`full_share`: the due requests of one tenant while the others have few."""
        self._connection = connection
        self._full_share = full_share
        self._tenants: dict[str, _Tenant] = {}
        self._looking: set[asyncio.Task[None]] = set()

    def is_exceeded(self, tenant: str, count: int) -> bool:
        """Count requests of `tenant`, and return whether they belong into the overflow."""
        known = self._tenants.get(tenant)
        if known is None:
            if len(self._tenants) >= MAX_TENANTS:
                self._tenants.clear()
            known = self._tenants[tenant] = _Tenant()
        known.requests += count
        if known.requests < LOOK_AFTER and not known.is_over:
            return False
        now = asyncio.get_running_loop().time()
        is_over = known.is_over and now - known.looked_at < VALID_S
        if now - known.looked_at >= INTERVAL_S:
            known.looked_at, known.requests, known.is_over = now, 0, is_over
            task = asyncio.create_task(self._look(tenant, known), name=f"work share {tenant}")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return is_over

    async def aclose(self) -> None:
        """Stop looking."""
        looking = list(self._looking)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    async def _look(self, tenant: str, known: _Tenant) -> None:
        pattern = subjects.requested(tenant, "*")
        try:
            info = await management.stream_info(self._connection, streams.WORK.name, subjects=pattern)
        except JetStreamError as error:
            _log.warning("work_share.unknown", tenant=tenant, error=str(error))
            return
        full, least = self._full_share, self._full_share // SMALLEST_SHARE
        share = max(least, min(full, TENANTS_AT_FULL_SHARE * full - info.state.messages))
        was_over, known.is_over = known.is_over, sum(info.state.subjects.values()) > share
        if known.is_over and not was_over:
            _log.info("work_share.exceeded", tenant=tenant, share=share)
