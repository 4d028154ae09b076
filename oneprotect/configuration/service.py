"""Reading and changing destinations and credentials, for the command line and the HTTP API alike.

Every change is validated before it is stored; a broken rule raises `schemas.validation.ValidationError`. Each change is
published as an audit event: who changed what, without the values.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

import msgspec

from consumers.destinations.destination_index import DestinationIndex
from consumers.egress.policy import EgressBlocked, EgressPolicy, EgressRule
from messaging.audit_events import publish_audit_event
from messaging.kv import KvBucket, KvEntry, KvRow, KvTable, WriteContention, retry_conflicts
from messaging.publisher import JetStreamPublisher
from messaging.quota import KeyQuota, Quota
from oneprotect.configuration.errors import (
    InUseError,
    Kind,
    MissingCredential,
    NotFoundError,
    PreconditionFailedError,
    WriteConflictError,
)
from oneprotect.configuration.masking import mask, unmask
from provider.errors import SecretRefInvalid
from provider.secret_ref import SecretRef
from schemas import validation
from schemas.configuration import (
    Credential,
    CredentialState,
    CredentialView,
    Destination,
    DestinationSpec,
    DestinationView,
)
from schemas.events import (
    ConfigChanged,
    ConfigChangedData,
    DestinationDisabled,
    DestinationDisabledData,
    DestinationRecovered,
    DestinationRecoveredData,
)
from schemas.validation import ValidationError

SOURCE: Final = "/oneprotect/configuration"

Action = Literal["set", "delete", "enable", "disable", "test"]
T = TypeVar("T")

Precondition = Callable[[int], bool]
"""Return true if an entry with this revision may be changed; 0 means that there is no entry."""


def always(_: int) -> bool:
    """Allow a change of any revision."""
    return True


_URL_REMEDIES: Final = {
    EgressRule.ADDRESS: "an operator can allow it with ONEPROTECT_EGRESS_ALLOW_CIDRS",
    EgressRule.INTERNAL_NAME: "use a host name of the public internet",
    EgressRule.SCHEME: "use https; an operator can allow http with ONEPROTECT_EGRESS_ALLOW_HTTP",
    EgressRule.PORT: "an operator can add it to ONEPROTECT_EGRESS_PORTS",
}
_STATE_FIELDS: Final = set(Destination.__struct_fields__) - set(DestinationSpec.__struct_fields__)


class ConfigurationService:
    """The configuration of all tenants.

    Every method raises `JetStreamError` when NATS is unavailable, and `ValidationError` for a malformed name. Methods
    that change something take `by` and `address` (who asks, from where) for the audit event, and `precondition`. They
    raise `PreconditionFailedError` when the precondition rejects the stored revision, and `WriteConflictError` when
    other writers keep changing the entry. They also raise when the change is stored and its audit event is not: repeat
    it.
    """

    def __init__(
        self,
        destinations: KvBucket,
        credentials: KvBucket,
        publisher: JetStreamPublisher,
        egress: EgressPolicy,
        *,
        index: DestinationIndex,
        statuses: KvBucket | None = None,
        secret_namespace: str | None = None,
        destination_quota: Quota | None = None,
        ordered_quota: Quota | None = None,
        credential_quota: KeyQuota | None = None,
    ) -> None:
        """`statuses`: the bucket with what consumers found about credentials; `index`: of the same destinations."""
        self._index = index
        self._destination_quota = destination_quota
        self._ordered_quota = ordered_quota
        self._credential_quota = credential_quota
        self._destinations = KvTable(destinations, Destination)
        self._credentials = KvTable(credentials, Credential)
        self._statuses = None if statuses is None else KvTable(statuses, CredentialState)
        self._publisher = publisher
        self._egress = egress
        self._secret_namespace = secret_namespace

    async def set_destination(
        self,
        tenant: str,
        name: str,
        fields: Mapping[str, object],
        *,
        by: str,
        address: str | None = None,
        precondition: Precondition = always,
    ) -> DestinationView:
        """Create or replace a destination from the fields of `DestinationSpec`; keep it enabled or disabled.

        A value `***` keeps the stored one, see `oneprotect.configuration.masking`.
        Raises `MissingCredential`, `QuotaExceeded`, and `ValidationError` for fields that break a rule.
        """
        key = _key(tenant, name)
        spec = validation.convert(fields, DestinationSpec)
        self._check_url(spec.url)
        if await self._credentials.bucket.get(f"{tenant}.{spec.credential}") is None:
            raise MissingCredential
        if self._destination_quota is not None and not await self._index.has(tenant, name):
            await self._destination_quota.require_room(tenant)
        is_new_queue = spec.ordering == "fifo" and not await self._index.is_ordered(tenant, name)
        if is_new_queue and self._ordered_quota is not None:
            await self._ordered_quota.require_room(tenant)

        def replace(stored: Destination | None) -> Destination:
            kept = {field: getattr(stored, field) for field in _STATE_FIELDS} if stored else {}
            whole = unmask(spec, stored)
            self._check_url(whole.url)
            return Destination(**msgspec.structs.asdict(whole), **kept)

        row = await self._update_destination(key, replace, precondition)
        await self._audit("destination", tenant, name, "set", by, address)
        return _destination_view(tenant, row)

    async def get_destination(self, tenant: str, name: str) -> DestinationView:
        """Return the destination. Raises `NotFoundError`."""
        row = await self._destinations.get(_key(tenant, name))
        if row is None:
            raise NotFoundError("destination")
        return _destination_view(tenant, row)

    async def list_destinations(self, tenant: str) -> list[DestinationView]:
        """Return the tenant's destinations by id, without entries that this version cannot decode."""
        return [_destination_view(tenant, row) for row in await self._destinations.list(_all_of(tenant))]

    async def page_destinations(
        self, tenant: str, *, limit: int, after: str | None
    ) -> tuple[list[DestinationView], bool]:
        """Return the first `limit` of the tenant's destinations with an id after `after`, and whether there are more.

        Leaves out entries that this version cannot decode.
        """
        rows, has_more = await self._destinations.list_page(
            _all_of(tenant), limit=limit, after=None if after is None else f"{tenant}.{after}"
        )
        return [_destination_view(tenant, row) for row in rows], has_more

    async def enable_destination(
        self, tenant: str, name: str, *, by: str, address: str | None = None, precondition: Precondition = always
    ) -> DestinationView:
        """Resume deliveries to the destination. Raises `NotFoundError`."""
        state = {"enabled": True, "disabled_reason": None, "disabled_at": None}
        view = await self._replace_state(tenant, name, state, precondition)
        await self._audit("destination", tenant, name, "enable", by, address)
        event = DestinationRecovered(**_envelope(tenant), data=DestinationRecoveredData(destination=name))
        await publish_audit_event(self._publisher, "destination.recovered", name, event)
        return view

    async def disable_destination(
        self,
        tenant: str,
        name: str,
        *,
        by: str,
        reason: str | None = None,
        only_url: str | None = None,
        address: str | None = None,
        precondition: Precondition = always,
    ) -> DestinationView:
        """Stop deliveries to the destination: due deliveries are retained, and can be replayed.

        Raises `NotFoundError`. With `only_url` raises `WriteConflictError` when the destination has another URL or is
        disabled already.
        """
        state = {"enabled": False, "disabled_reason": reason or f"disabled by {by}", "disabled_at": datetime.now(UTC)}
        view = await self._replace_state(tenant, name, state, precondition, only_url=only_url)
        await self._audit("destination", tenant, name, "disable", by, address)
        data = DestinationDisabledData(destination=name, reason=view.disabled_reason or "")
        event = DestinationDisabled(**_envelope(tenant), data=data)
        await publish_audit_event(self._publisher, "destination.disabled", name, event)
        return view

    async def delete_destination(
        self, tenant: str, name: str, *, by: str, address: str | None = None, precondition: Precondition = always
    ) -> None:
        """Delete a destination; its pending deliveries fail. Raises `NotFoundError`."""
        key = _key(tenant, name)
        revision = await _delete(self._destinations.bucket, "destination", key, precondition)
        await self._index.receive(KvEntry(key, None, revision))
        await self._audit("destination", tenant, name, "delete", by, address)

    async def audit_test(self, tenant: str, name: str, *, by: str, address: str | None = None) -> None:
        """Publish the audit event of a test delivery to a destination."""
        await self._audit("destination", tenant, name, "test", by, address)

    async def set_credential(
        self,
        tenant: str,
        name: str,
        fields: Mapping[str, object],
        *,
        by: str,
        address: str | None = None,
        precondition: Precondition = always,
    ) -> CredentialView:
        """Create or replace a credential from the fields of `Credential`. Raises `QuotaExceeded`."""
        key = _key(tenant, name)
        requested = validation.convert(fields, Credential)
        credential = msgspec.structs.replace(requested, secret_ref=self._canonical_ref(requested.secret_ref))
        if precondition is not always and not precondition(_revision(await self._credentials.bucket.find(key))):
            raise PreconditionFailedError  # before the status below is deleted
        if self._credential_quota is not None:
            await self._credential_quota.require_room(tenant, key)
        if self._statuses is not None:  # first, so that the status of the old ref is never shown for the new one
            await self._statuses.bucket.delete(key)
        row = await _update(self._credentials, key, lambda _: credential, precondition)
        await self._audit("credential", tenant, name, "set", by, address)
        return _credential_view(tenant, row, None)

    async def get_credential(self, tenant: str, name: str) -> CredentialView:
        """Return the credential, without its ref. Raises `NotFoundError`."""
        key = _key(tenant, name)
        row = await self._credentials.get(key)
        if row is None:
            raise NotFoundError("credential")
        status = None if self._statuses is None else await self._statuses.get(key)
        return _credential_view(tenant, row, status)

    async def list_credentials(self, tenant: str) -> list[CredentialView]:
        """Return the tenant's credentials by id, without entries that this version cannot decode."""
        return await self._credential_views(tenant, await self._credentials.list(_all_of(tenant)))

    async def page_credentials(
        self, tenant: str, *, limit: int, after: str | None
    ) -> tuple[list[CredentialView], bool]:
        """Return the first `limit` of the tenant's credentials with an id after `after`, and whether there are more."""
        rows, has_more = await self._credentials.list_page(
            _all_of(tenant), limit=limit, after=None if after is None else f"{tenant}.{after}"
        )
        return await self._credential_views(tenant, rows), has_more

    async def get_credentials(self, tenant: str, names: Iterable[str]) -> list[CredentialView]:
        """Return those of the named credentials that exist, by id."""
        rows = await self._credentials.get_all([_key(tenant, name) for name in names])
        return await self._credential_views(tenant, rows)

    async def _credential_views(self, tenant: str, rows: Sequence[KvRow[Credential]]) -> list[CredentialView]:
        checked = [] if self._statuses is None else await self._statuses.get_all([row.key for row in rows])
        statuses = {row.key: row for row in checked}
        return [_credential_view(tenant, row, statuses.get(row.key)) for row in rows]

    async def delete_credential(
        self, tenant: str, name: str, *, by: str, address: str | None = None, precondition: Precondition = always
    ) -> None:
        """Delete a credential that no destination uses. Raises `NotFoundError` or `InUseError`."""
        key = _key(tenant, name)
        if await self._credentials.bucket.get(key) is None:
            raise NotFoundError("credential")
        if users := await self._index.users(tenant, name):
            raise InUseError(tuple(sorted(users)))
        await _delete(self._credentials.bucket, "credential", key, precondition)
        if self._statuses is not None:
            await self._statuses.bucket.delete(key)
        await self._audit("credential", tenant, name, "delete", by, address)

    async def _replace_state(
        self,
        tenant: str,
        name: str,
        state: Mapping[str, object],
        precondition: Precondition,
        *,
        only_url: str | None = None,
    ) -> DestinationView:
        key = _key(tenant, name)

        def replace(stored: Destination | None) -> Destination:
            if stored is None:
                raise NotFoundError("destination")
            if only_url is not None and (stored.url != only_url or not stored.enabled):
                raise WriteConflictError
            return msgspec.structs.replace(stored, **state)

        return _destination_view(tenant, await self._update_destination(key, replace, precondition))

    async def _update_destination(
        self, key: str, change: Callable[[Destination | None], Destination], precondition: Precondition
    ) -> KvRow[Destination]:
        row = await _update(self._destinations, key, change, precondition)
        await self._index.receive(KvEntry(key, msgspec.json.encode(row.value), row.revision))
        return row

    async def _audit(self, kind: Kind, tenant: str, name: str, action: Action, by: str, address: str | None) -> None:
        data = ConfigChangedData(kind=kind, name=name, action=action, by=by, address=address)
        event = ConfigChanged(**_envelope(tenant), data=data)
        await publish_audit_event(self._publisher, "config.changed", f"{kind}.{name}", event)

    def _check_url(self, url: str) -> None:
        try:
            self._egress.check_url(url)
        except EgressBlocked as error:
            blocked = error
        else:
            return
        remedy = _URL_REMEDIES.get(blocked.rule)
        raise ValidationError("url", f"{blocked}; {remedy}" if remedy else str(blocked))

    def _canonical_ref(self, ref: str) -> str:
        try:
            return str(SecretRef.parse(ref, central_namespace=self._secret_namespace))
        except SecretRefInvalid:
            pass  # raised below, so that the error has no context with the input
        forms = "`k8s://NAMESPACE/SECRET/KEY`" + (" or `k8s://SECRET/KEY`" if self._secret_namespace else "")
        raise ValidationError(
            "secret_ref", f"expected {forms}, the name of a key in a Secret and not the secret itself"
        )


async def _update(table: KvTable[T], key: str, change: Callable[[T | None], T], precondition: Precondition) -> KvRow[T]:
    def check(entry: KvEntry) -> None:
        if not precondition(_revision(entry)):
            raise PreconditionFailedError

    try:
        return await table.update(key, change, check=check)
    except WriteContention:
        raise WriteConflictError from None


async def _delete(bucket: KvBucket, kind: Kind, key: str, precondition: Precondition) -> int:
    async def delete() -> int:
        entry = await bucket.find(key)
        if entry.value is None:
            raise NotFoundError(kind)
        if not precondition(entry.revision):
            raise PreconditionFailedError
        return await bucket.delete(key, revision=entry.revision)

    try:
        return await retry_conflicts(delete)
    except WriteContention:
        raise WriteConflictError from None


def _envelope(tenant: str) -> dict[str, Any]:
    """Return the CloudEvents attributes of a new audit event."""
    now = datetime.now(UTC)
    return {"specversion": "1.0", "id": str(uuid.uuid4()), "source": SOURCE, "time": now, "tenant": tenant}


def _key(tenant: str, name: str) -> str:
    return f"{validation.name(tenant, 'tenant')}.{validation.name(name, 'id')}"


def _all_of(tenant: str) -> str:
    return f"{validation.name(tenant, 'tenant')}.*"


def _revision(entry: KvEntry) -> int:
    return 0 if entry.value is None else entry.revision


def _destination_view(tenant: str, row: KvRow[Destination]) -> DestinationView:
    view = DestinationView(id=row.id, tenant=tenant, revision=row.revision, **msgspec.structs.asdict(row.value))
    return mask(view)


def _credential_view(tenant: str, row: KvRow[Credential], status: KvRow[CredentialState] | None) -> CredentialView:
    state = msgspec.structs.asdict(status.value if status else CredentialState())
    return CredentialView(id=row.id, tenant=tenant, purpose=row.value.purpose, revision=row.revision, **state)
