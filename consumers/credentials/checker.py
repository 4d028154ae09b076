"""Checks of credentials: a consumer resolves the Secret, stores the status, and resumes the deliveries that waited.

A credential is checked when it changes, on request, when a delivery contradicts its status, and every few minutes.
Tenants take turns, so the many credentials of one tenant delay no check of another's. The status is in a bucket with
revisions, so of several consumers that notice a change, one stores it.

A consumer that cannot read a Secret keeps that to itself, in its metrics: the status says what is true of the Secret.
Consumers that disagree change a status at most twice in `HOLD_S`.

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

from consumers.credentials.resumption import CredentialResumption, age_s
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
from schemas.configuration import Credential, Rollover, StoredCredentialState
from schemas.events import CredentialStatusChanged, CredentialStatusData

SOURCE: Final = "/oneprotect/consumer"
INTERVAL_S: Final = 300.0
INTERVAL_BROKEN_S: Final = 15.0
"""Interval for a credential that does not work, as an operator is probably fixing it right now, or is resuming."""
HOLD_S: Final = 10.0
"""Time for which a consumer that finds another defect, or one that others do not find, leaves a new status as it is."""
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

    def on_secret_result(self, credential: str, code: Code | None, version: str | None = None) -> None:
        """Receive the result of resolving the secret of `<tenant>.<id>`: its version, or the code of the failure."""
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
        self._statuses = KvTable(statuses, StoredCredentialState)
        self._provider = provider
        self._provider_name = provider_name
        self._publisher = publisher
        self._secret_namespace = secret_namespace
        self._spread = spread
        self._known: dict[str, StoredCredentialState] = {}
        self._resumption = CredentialResumption(resumption, self._statuses, self._known, leases, worker)
        self._due: dict[str, float] = {}
        """Time of the next check of each credential; infinite while it waits for its turn."""
        self._sizes: Counter[str] = Counter()
        """Credentials of each tenant."""
        self._list_at = 0.0
        self._queue = TurnQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._contradicted: set[str] = set()
        """Credentials whose status says something else than this consumer found."""
        self._used: dict[str, str] = {}
        """The last version that differed from the status, by credential: it was checked."""
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

    def on_secret_result(self, credential: str, code: Code | None, version: str | None = None) -> None:
        """Check the credential soon if the result contradicts its status; see `SecretObserver`."""
        state, is_contradicted = self._known.get(credential), credential in self._contradicted
        if code is not None:
            if is_contradicted or (state is not None and STATUS_OF[code] is state.status):
                return
            self._contradicted.add(credential)
        elif state is not None and state.status is CredentialStatus.CONFIGURED and not is_contradicted:
            if version is None or version in (state.version, self._used.get(credential)):
                return
            self._used[credential] = version
        self._check_soon(credential)

    async def list_again(self) -> None:
        """List all credentials in the next round: announcements may have been lost."""
        self._list_at = 0.0

    def _check_soon(self, key: str) -> None:
        self._due[key] = math.inf
        self._queue.add(key, first=True)
        self._start_checks()

    def _on_credential(self, key: str, old: Credential | None, new: Credential | None) -> None:
        if new is None:
            self._evict(old)
            self._forget(key)
            return
        self._read_again(new, is_changed=old is not None)
        if old != new and (old is not None or not self._queue.is_running(key)):  # else the check has just read it
            self._check_soon(key)

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        self._due.pop(key, None)
        self._contradicted.discard(key)
        self._used.pop(key, None)
        self._queue.discard(key)

    async def evict(self, tenant: str | None, credential: str | None) -> int:
        """Evict the Secrets of one credential, or of all credentials of a tenant, and return their number."""
        count = 0
        async for row in self._credentials.read(f"{tenant or '*'}.{credential or '*'}"):
            count += self._evict(row.value)
        return count

    def _evict(self, credential: Credential | None) -> bool:
        ref = self._ref_of(credential)
        if ref is not None:
            self._provider.evict(ref.namespace, ref.name)
        return ref is not None

    def _read_again(self, credential: Credential | None, *, is_changed: bool) -> None:
        """Let the next use read the Secret, unless it is usable from memory and has not changed."""
        if (ref := self._ref_of(credential)) is not None:
            forget = self._provider.expire if is_changed else self._provider.forget_failure
            forget(ref.namespace, ref.name)

    def _ref_of(self, credential: Credential | None) -> SecretRef | None:
        if credential is not None:
            with contextlib.suppress(SecretRefInvalid):
                return SecretRef.parse(credential.secret_ref, central_namespace=self._secret_namespace)
        return None

    async def check(self, tenant: str, credential: str, *, fresh: bool = False) -> StoredCredentialState | None:
        """Resolve the credential's Secret, store its status and return it; None without the credential.

        A `fresh` check reads the Secret, and resumes the deliveries that wait for a Secret that is usable. A consumer
        that can't read it returns that, and stores it only if nothing is known.
        """
        key = f"{tenant}.{credential}"
        found = await self._directory.credential(tenant, credential)
        if found is None:
            return None
        if fresh:
            self._read_again(found, is_changed=True)
        state = await self._resolve(tenant, found)
        if not fresh:
            with contextlib.suppress(WriteConflict):  # another consumer has just stored its own result
                return await self._store_status(key, state)
            return state
        return await retry_conflicts(lambda: self._store_status(key, state, resume=True))

    async def _resolve(self, tenant: str, credential: Credential) -> StoredCredentialState:
        now = datetime.now(UTC)
        try:
            ref = SecretRef.parse(credential.secret_ref, central_namespace=self._secret_namespace)
            secret = await self._provider.resolve(ref, tenant=tenant, purpose=credential.purpose, allow_stale=False)
        except SecretError as error:
            status = STATUS_OF[error.code]
            return StoredCredentialState(status=status, provider=self._provider_name, checked_at=now)
        rollover = secret.describe_rollover(now)
        return StoredCredentialState(
            status=CredentialStatus.CONFIGURED,
            provider=self._provider_name,
            checked_at=now,
            version=secret.version,
            rollover=Rollover(
                active=rollover.active, expires_at=rollover.expires_at, misconfigured=rollover.misconfigured
            ),
        )

    async def _store_status(
        self, key: str, state: StoredCredentialState, *, resume: bool = False
    ) -> StoredCredentialState:
        """Store the result of a check, and `resume` the waiting deliveries if the Secret is usable, or newly so."""
        entry = await self._statuses.bucket.find(key)
        before = self._statuses.decode(entry) or StoredCredentialState()
        has_changed = before.status is not state.status
        was_contradicted = key in self._contradicted
        if has_changed and not _may_replace(before, state, is_asked=resume):
            self._contradicted.add(key)  # so it is checked again soon, and resumed when this consumer agrees
            if state.status is CredentialStatus.UNAVAILABLE and before.unread_since is None:
                before = msgspec.structs.replace(before, unread_since=state.checked_at)
                await self._statuses.put(key, before, revision=entry.revision)
            self._known[key] = before
            return state if resume else before
        self._contradicted.discard(key)
        changed_at = state.checked_at if has_changed else before.changed_at
        state = msgspec.structs.replace(
            state, changed_at=changed_at, resuming_since=before.resuming_since, resumed_at=before.resumed_at
        )
        if state.status is CredentialStatus.CONFIGURED:
            is_missed = resume or was_contradicted or before.unread_since is not None
            if has_changed or (is_missed and before.resuming_since is None):
                state = msgspec.structs.replace(state, resuming_since=state.checked_at)
        if has_changed:  # before it is stored: a consumer that ends in between leaves it to the next check
            await self._publish_change(key, before.status, state.status, entry.revision)
        if not _is_same(before, state) or self._is_old(key, before):
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
            id=f"{key}.{revision}.{after.public}",  # tenants see it
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
            self._due[key] = time.monotonic() + self._interval_s(key, state) * self._spread(0.8, 1.2)

    async def _on_status(self, entry: KvEntry) -> None:
        """Adopt a status that another consumer stored."""
        state = self._statuses.decode(entry) or StoredCredentialState()
        before = self._known.get(entry.key, StoredCredentialState())
        self._known[entry.key] = state
        if state.status is CredentialStatus.CONFIGURED and (before.status, before.version) != (
            state.status,
            state.version,
        ):
            # Waiting deliveries resume now, perhaps here, where the failure may still be cached, or an older version.
            credential = await self._directory.credential(*entry.key.split("."))
            self._read_again(credential, is_changed=before.version is not None and before.version != state.version)
        if state.checked_at is not None:
            interval_s = self._interval_s(entry.key, state)
            self._due[entry.key] = time.monotonic() + interval_s * self._spread(1.0, 1.2)
        if state.resuming_since is not None:
            self._resumption.join(entry.key)

    def _interval_s(self, key: str, state: StoredCredentialState) -> float:
        """Return the seconds until the next check. Those of a tenant with many credentials are further apart."""
        is_working = state.status is CredentialStatus.CONFIGURED and key not in self._contradicted
        is_settled = is_working and state.resuming_since is None and state.unread_since is None
        interval_s = INTERVAL_S if is_settled else INTERVAL_BROKEN_S
        return max(interval_s, self._sizes[key.partition(".")[0]] / MAX_CHECKS_PER_S)

    def _is_old(self, key: str, state: StoredCredentialState) -> bool:
        return age_s(state.checked_at) >= 0.5 * self._interval_s(key, state)


def _may_replace(before: StoredCredentialState, found: StoredCredentialState, *, is_asked: bool) -> bool:
    """Return whether to store another status: not that of a consumer in trouble, nor a disagreement of consumers."""
    if before.status is CredentialStatus.UNCHECKED or found.status is CredentialStatus.CONFIGURED:
        return True
    if found.status is CredentialStatus.UNAVAILABLE:
        return False
    return is_asked or age_s(before.changed_at) >= HOLD_S


def _is_same(one: StoredCredentialState, other: StoredCredentialState) -> bool:
    return msgspec.structs.replace(one, checked_at=None) == msgspec.structs.replace(other, checked_at=None)
