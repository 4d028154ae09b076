"""The resumption of deliveries that waited for a secret: one consumer at a time resumes those of a tenant.

The row of the credential's status says that a resumption is owed, until it is complete. The next consumer that checks
the credential starts it again: the one that failed, or another.
"""

import asyncio
import math
import secrets
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from consumers.retries.reschedule import WaitingDeliveryResumer
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable, retry_conflicts
from messaging.lease import TTL_S, Lease, LeaseHolder
from schemas.configuration import StoredCredentialState

RESUME_INTERVAL_S: Final = 30.0
"""Least time between two resumptions of a credential."""

_log = structlog.get_logger(__name__)


class CredentialResumption:
    """Resumes what waited for credentials in the background, a tenant's one after the other."""

    def __init__(
        self,
        deliveries: WaitingDeliveryResumer,
        statuses: KvTable[StoredCredentialState],
        known: dict[str, StoredCredentialState],
        leases: KvBucket,
        worker: str,
    ) -> None:
        """Create it. `known` holds the states that this consumer knows, by `<tenant>.<id>`."""
        self._deliveries = deliveries
        self._statuses = statuses
        self._known = known
        self._leases = leases
        self._holder = LeaseHolder(by=worker, run=secrets.token_hex(8))
        self._waiting: dict[str, dict[str, None]] = {}
        """Credentials of each tenant that is being resumed, in their order."""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, key: str) -> None:
        """Resume what waits for `<tenant>.<id>`, unless that was done a moment ago: then a later check does it."""
        if age_s(self._known.get(key, StoredCredentialState()).resumed_at) < RESUME_INTERVAL_S:
            return
        tenant, _, credential = key.partition(".")
        if tenant not in self._waiting:
            self._waiting[tenant] = {}
            self._tasks[tenant] = asyncio.create_task(self._resume(tenant), name=f"resume {tenant}")
        self._waiting[tenant][credential] = None

    def join(self, key: str) -> None:
        """Resume what another consumer found, if this one resumes the tenant: it has the lease."""
        if key.partition(".")[0] in self._waiting:
            self.start(key)

    async def stop(self) -> None:
        """Leave the rest to other consumers."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _resume(self, tenant: str) -> None:
        lease = Lease(self._leases, tenant, self._holder)
        try:
            if await lease.acquire() is None:
                try:
                    await self._resume_all(tenant, lease)
                finally:
                    await lease.release()
        except* JetStreamError as errors:
            _log.warning("credentials.resume_failed", tenant=tenant, error=str(errors.exceptions[0]))
        finally:
            del self._waiting[tenant], self._tasks[tenant]

    async def _resume_all(self, tenant: str, lease: Lease) -> None:
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(_renew(lease))
            while credentials := self._waiting[tenant]:
                del credentials[credential := next(iter(credentials))]
                await self._resume_one(tenant, credential)
            renewing.cancel()

    async def _resume_one(self, tenant: str, credential: str) -> None:
        key, began = f"{tenant}.{credential}", datetime.now(UTC)
        since = self._known.get(key, StoredCredentialState()).resuming_since
        if since is None:  # done meanwhile
            return
        resumed = await self._deliveries.resume(tenant, credential)

        async def store_end() -> None:
            row = await self._statuses.get(key)
            if row is not None and row.value.resuming_since == since:
                state = msgspec.structs.replace(row.value, resuming_since=None, resumed_at=began)
                await self._statuses.put(key, state, revision=row.revision)
                self._known[key] = state

        await retry_conflicts(store_end)
        _log.info("credential.resumed", tenant=tenant, credential=credential, deliveries=resumed)


def age_s(at: datetime | None) -> float:
    """Return the seconds since a time; infinity for none, and for a time ahead of this machine's clock."""
    age = math.inf if at is None else (datetime.now(UTC) - at).total_seconds()
    return age if age >= 0 else math.inf


async def _renew(lease: Lease) -> None:
    """Renew `lease` until cancelled. Raises `LeaseLost`, or another `JetStreamError`."""
    while True:
        await asyncio.sleep(TTL_S / 4)
        await lease.renew()
