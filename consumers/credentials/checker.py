"""Checks of credentials: a consumer resolves the Secret, stores the status, and resumes the deliveries that waited.

A credential is checked when it changes, on request, when a delivery contradicts its status, and every few minutes.
Tenants take turns, so the many credentials of one tenant delay no check of another's. The status is in a bucket with
revisions, so of several consumers that notice a change, one stores it.

The row of the status says since when deliveries are being resumed, until all of them are. So when the consumer that
resumes them ends, the next check of any consumer finds what is left. One consumer at a time resumes those of a tenant.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

from consumers.credentials.resumption import CredentialResumption
from consumers.credentials.turn_queue import TurnQueue
from consumers.destinations.directory import ConfigurationDirectory
from consumers.retries.reschedule import WaitingDeliveryResumer
from messaging.audit_events import publish_audit_event
from messaging.client.errors import JetStreamError, WriteConflict
from messaging.kv import KvBucket, KvEntry, KvTable, retry_conflicts
from messaging.periodic import run_every
from messaging.publisher import JetStreamPublisher
from provider.cache.provider import CachedSecretProvider
from provider.errors import SecretError, SecretRefInvalid
from provider.secret_ref import SecretRef
from schemas.codes import Code, CredentialStatus
from schemas.configuration import Credential, CredentialState, Rollover
from schemas.events import CredentialStatusChanged, CredentialStatusData

SOURCE: Final = "/oneprotect/consumer"
INTERVAL_S: Final = 300.0
INTERVAL_BROKEN_S: Final = 15.0
"""Interval for a credential that does not work, as an operator is probably fixing it right now, or is resuming."""
MAX_CHECKS_PER_S: Final = 20.0
"""Repeated checks a second of one tenant's credentials. A new or changed credential is checked at once."""
ROUND_S: Final = 5.0
LIST_INTERVAL_S: Final = 300.0
"""Time after which all credentials are listed again, in case an announcement was lost."""

STATUS_OF: Final = {
    Code.SECRET_REF_INVALID: CredentialStatus.MALFORMED,
    Code.SECRET_REF_FORBIDDEN: CredentialStatus.MISMATCH,
    Code.SECRET_MISMATCH: CredentialStatus.MISMATCH,
    Code.SECRET_NOT_FOUND: CredentialStatus.MISSING,
    Code.SECRET_MALFORMED: CredentialStatus.MALFORMED,
    Code.SECRET_DENIED: CredentialStatus.DENIED,
    Code.SECRET_UNAVAILABLE: CredentialStatus.UNAVAILABLE,
}

_log = structlog.get_logger(__name__)


class SecretObserver(Protocol):
    """Observer of the secrets that deliveries resolve."""

    def on_secret_result(self, credential: str, code: Code | None) -> None:
        """Receive the result of resolving the secret of `<tenant>.<id>`: None, or the code of the failure."""
        ...


class CredentialChecker:
    """Checks credentials and stores their status. `provider_name` is part of the status."""

    def __init__(
        self,
        *,
        directory: ConfigurationDirectory,
        credentials: KvBucket,
        statuses: KvBucket,
        provider: CachedSecretProvider,
        provider_name: str,
        publisher: JetStreamPublisher,
        resumption: WaitingDeliveryResumer,
        leases: KvBucket,
        worker: str,
        secret_namespace: str | None,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._directory = directory
        self._credentials = KvTable(credentials, Credential)
        self._statuses = KvTable(statuses, CredentialState)
        self._provider = provider
        self._provider_name = provider_name
        self._publisher = publisher
        self._secret_namespace = secret_namespace
        self._spread = spread
        self._known: dict[str, CredentialState] = {}
        self._resumption = CredentialResumption(resumption, self._statuses, self._known, leases, worker)
        self._due: dict[str, float] = {}
        """Time of the next check of each credential; infinite while it waits for its turn."""
        self._sizes: Counter[str] = Counter()
        """Credentials of each tenant."""
        self._list_at = 0.0
        self._queue = TurnQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._contradicted: set[str] = set()
        """Configured credentials whose secret a delivery did not find."""
        self._is_running = False

    async def run(self, stop: asyncio.Event) -> None:
        """Check due credentials until `stop` is set."""
        await self._statuses.bucket.on_change(self._on_status)
        self._directory.on_credential(self._on_credential)
        self._is_running = True
        await run_every(ROUND_S, self._queue_due, stop, failure_event="credentials.check_failed")
        self._is_running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._resumption.stop(), return_exceptions=True)

    def count(self) -> Counter[CredentialStatus]:
        """Return how many credentials known to this consumer have each status."""
        return Counter(state.status for state in self._known.values())

    def on_secret_result(self, credential: str, code: Code | None) -> None:
        """Check the credential soon if the result contradicts its status; see `SecretObserver`."""
        state = self._known.get(credential)
        seen = CredentialStatus.CONFIGURED if code is None else STATUS_OF.get(code)
        if state is None or seen is not state.status:
            if state is None or state.status is CredentialStatus.CONFIGURED:
                self._contradicted.add(credential)
            self._check_soon(credential)

    async def list_again(self) -> None:
        """List all credentials in the next round: announcements may have been lost."""
        self._list_at = 0.0

    def _check_soon(self, key: str) -> None:
        self._due[key] = math.inf
        self._queue.add(key, first=True)
        self._start_checks()

    def _on_credential(self, key: str, old: Credential | None, new: Credential | None) -> None:
        for credential in (old, new):
            self._evict(credential)
        if new is None:
            self._forget(key)
        elif old != new and (old is not None or not self._queue.is_running(key)):  # else the check has just read it
            self._check_soon(key)

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        self._due.pop(key, None)
        self._resumption.forget(key)
        self._contradicted.discard(key)
        self._queue.discard(key)

    async def evict(self, tenant: str | None, credential: str | None) -> int:
        """Evict the Secrets of one credential, or of all credentials of a tenant, and return their number."""
        count = 0
        async for row in self._credentials.read(f"{tenant or '*'}.{credential or '*'}"):
            count += self._evict(row.value)
        return count

    def _evict(self, credential: Credential | None) -> bool:
        if credential is None:
            return False
        with contextlib.suppress(SecretRefInvalid):
            ref = SecretRef.parse(credential.secret_ref, central_namespace=self._secret_namespace)
            self._provider.evict(ref.namespace, ref.name)
            return True
        return False

    async def check(self, tenant: str, credential: str, *, fresh: bool = False) -> CredentialState | None:
        """Resolve the credential's Secret, store its status and return it; None without the credential.

        A `fresh` check ignores the cache, and resumes the deliveries that wait for a Secret that is usable.
        """
        key = f"{tenant}.{credential}"
        found = await self._directory.credential(tenant, credential)
        if found is None:
            return None
        if fresh:
            self._evict(found)
        state = await self._resolve(tenant, found)
        if not fresh:
            with contextlib.suppress(WriteConflict):  # another consumer has just stored its own result
                return await self._store_status(key, state)
            return state
        return await retry_conflicts(lambda: self._store_status(key, state, resume=True))

    async def _resolve(self, tenant: str, credential: Credential) -> CredentialState:
        now = datetime.now(UTC)
        try:
            ref = SecretRef.parse(credential.secret_ref, central_namespace=self._secret_namespace)
            secret = await self._provider.resolve(ref, tenant=tenant, purpose=credential.purpose)
        except SecretError as error:
            status = STATUS_OF[error.code]
            return CredentialState(status=status, provider=self._provider_name, checked_at=now)
        rollover = secret.describe_rollover(now)
        return CredentialState(
            status=CredentialStatus.CONFIGURED,
            provider=self._provider_name,
            checked_at=now,
            version=secret.version,
            rollover=Rollover(
                active=rollover.active, expires_at=rollover.expires_at, misconfigured=rollover.misconfigured
            ),
        )

    async def _store_status(self, key: str, state: CredentialState, *, resume: bool = False) -> CredentialState:
        """Store the result of a check, and `resume` the waiting deliveries if the Secret is usable, or newly so."""
        entry = await self._statuses.bucket.find(key)
        before = self._statuses.decode(entry) or CredentialState()
        has_changed = before.status is not state.status
        was_contradicted = key in self._contradicted
        self._contradicted.discard(key)
        if state.status is CredentialStatus.CONFIGURED:
            is_owed = has_changed or (before.resuming_since is None and (resume or was_contradicted))
            since = state.checked_at if is_owed else before.resuming_since
            state = msgspec.structs.replace(state, resuming_since=since)
        if has_changed:  # before it is stored: a consumer that ends in between leaves it to the next check
            await self._publish_change(key, before.status, state.status, entry.revision)
        if not _is_same(before, state) or self._is_old(key.partition(".")[0], before):
            await self._statuses.put(key, state, revision=entry.revision)
        else:
            state = before
        self._known[key] = state
        if state.resuming_since is not None and not was_contradicted:  # else that delivery may not wait yet
            self._resumption.start(key)
        return state

    async def _publish_change(self, key: str, before: CredentialStatus, after: CredentialStatus, revision: int) -> None:
        tenant, _, credential = key.partition(".")
        _log.info("credential.status", tenant=tenant, credential=credential, status=after.value, before=before.value)
        event = CredentialStatusChanged(
            specversion="1.0",
            id=f"{key}.{revision}.{after.value}",
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=tenant,
            data=CredentialStatusData(credential=credential, status=after, previous_status=before),
        )
        await publish_audit_event(self._publisher, "credential.status_changed", credential, event)

    async def _queue_due(self) -> None:
        """Queue every credential that is due."""
        now = time.monotonic()
        if self._list_at <= now:
            async for entry in self._credentials.bucket.read():
                self._due.setdefault(entry.key, 0.0)
            self._list_at = now + LIST_INTERVAL_S
        self._sizes = Counter(key.partition(".")[0] for key in self._due)
        for key, at in self._due.items():
            if at <= now:
                self._due[key] = math.inf
                self._queue.add(key)
        self._start_checks()

    def _start_checks(self) -> None:
        while self._is_running and (key := self._queue.start()) is not None:
            self._start(self._check_queued(key), f"check {key}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check_queued(self, key: str) -> None:
        self._due[key] = time.monotonic() + ROUND_S  # unless the check ends with a result
        try:
            await self._check_and_plan(key)
        except JetStreamError as error:
            _log.warning("credentials.check_failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - nothing else awaits the task
            _log.error("credentials.check_failed", error=type(error).__name__)
        finally:
            self._queue.end(key)
            self._start_checks()

    async def _check_and_plan(self, key: str) -> None:
        tenant, _, credential = key.partition(".")
        state = await self.check(tenant, credential)
        if state is None:
            self._forget(key)
        else:
            self._due[key] = time.monotonic() + self._interval_s(tenant, state) * self._spread(0.8, 1.2)

    async def _on_status(self, entry: KvEntry) -> None:
        """Adopt a status that another consumer stored."""
        state = self._statuses.decode(entry) or CredentialState()
        before = self._known.get(entry.key, CredentialState())
        self._known[entry.key] = state
        if state.status is CredentialStatus.CONFIGURED and before.status is not state.status:
            # Waiting deliveries resume now, perhaps here, where the failure may still be cached.
            self._evict(await self._directory.credential(*entry.key.split(".")))
        if state.checked_at is not None:
            interval_s = self._interval_s(entry.key.partition(".")[0], state)
            self._due[entry.key] = time.monotonic() + interval_s * self._spread(1.0, 1.2)
        if state.resuming_since is not None:
            self._resumption.join(entry.key)

    def _interval_s(self, tenant: str, state: CredentialState) -> float:
        """Return the seconds until the next check. Those of a tenant with many credentials are further apart."""
        is_quiet = state.status is CredentialStatus.CONFIGURED and state.resuming_since is None
        interval_s = INTERVAL_S if is_quiet else INTERVAL_BROKEN_S
        return max(interval_s, self._sizes[tenant] / MAX_CHECKS_PER_S)

    def _is_old(self, tenant: str, state: CredentialState) -> bool:
        age_s = (datetime.now(UTC) - state.checked_at).total_seconds() if state.checked_at else float("inf")
        return age_s >= 0.5 * self._interval_s(tenant, state)


def _is_same(one: CredentialState, other: CredentialState) -> bool:
    return msgspec.structs.replace(one, checked_at=None) == msgspec.structs.replace(other, checked_at=None)
