"""Destinations and credentials as they are written: the one way in, for the command line and the HTTP API alike.

Everything is checked before it is stored, and what breaks a rule raises `schemas.validation.ValidationError`. Each change is told
on the events stream: who changed what, and not to what.

ConfigurationError
├── Unknown             there is no such destination or credential
├── MissingCredential   a destination names a credential that is not there
├── InUse               the credential still signs for destinations
├── Changed             it is not, or no longer, what whoever asks for a change has seen
└── Conflict            others kept writing the same in between
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

import msgspec
import structlog

from consumers.egress.policy import EgressBlocked, EgressPolicy, EgressRule
from messaging.audit_events import publish_audit_event
from messaging.client.errors import WRONG_LAST_SEQUENCE, RejectedByServer
from messaging.kv import KvBucket, KvEntry
from messaging.publisher import JetStreamPublisher
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
MAX_TRIES: Final = 5

Kind = Literal["destination", "credential"]
Action = Literal["set", "delete", "enable", "disable", "test"]
T = TypeVar("T")

OnlyIf = Callable[[int], bool]
"""Whether a change may be made to what has this revision now; 0 when there is nothing."""


def always(_: int) -> bool:
    """Whatever is there."""
    return True


_MENDING: Final = {
    EgressRule.ADDRESS: "an operator can except it with ONEPROTECT_EGRESS_ALLOW_CIDRS",
    EgressRule.INTERNAL_NAME: "give it a name that the whole internet knows",
    EgressRule.SCHEME: "use https, or http where an operator allows it with ONEPROTECT_EGRESS_ALLOW_HTTP",
    EgressRule.PORT: "an operator can add it to ONEPROTECT_EGRESS_PORTS",
}
_STATE_FIELDS: Final = set(Destination.__struct_fields__) - set(DestinationSpec.__struct_fields__)

_log = structlog.get_logger(__name__)


class ConfigurationError(Exception):
    """A change or a read that was not done; the text says why and how to mend it."""


class NotFoundError(ConfigurationError):
    """There is no such destination or credential."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"the tenant has no {kind} of this name; see `oneprotect {kind} list`")


class MissingCredential(ConfigurationError):
    """A destination names a credential that is not there."""

    def __init__(self) -> None:
        super().__init__("the tenant has no credential of this name; create it first, with `oneprotect credential set`")


class InUseError(ConfigurationError):
    """The credential still signs for `destinations`."""

    def __init__(self, destinations: tuple[str, ...]) -> None:
        names = ", ".join(destinations)
        super().__init__(f"destinations still use this credential: {names}; give them another one first")
        self.destinations: Final = destinations


class PreconditionFailedError(ConfigurationError):
    """It is not, or no longer, what whoever asks for a change has seen."""

    def __init__(self) -> None:
        super().__init__("it has changed since you have seen it; look at it again")


class WriteConflictError(ConfigurationError):
    """Others kept writing the same in between."""

    def __init__(self) -> None:
        super().__init__("somebody else changes the same right now; look at it, and try again")


class ConfigurationService:
    """Writes and reads what tenants configure. Any method raises `JetStreamError` when NATS can't be asked.

    `by` says who asks for a change, and `address` from where. With `precondition` a change raises `PreconditionFailedError` unless that says
    yes to the revision of what is there. A change whose audit event could not be stored raises, too, although it is
    done: make it again. `statuses` is the bucket with what consumers found about credentials.
    """

    def __init__(
        self,
        destinations: KvBucket,
        credentials: KvBucket,
        publisher: JetStreamPublisher,
        egress: EgressPolicy,
        *,
        statuses: KvBucket | None = None,
        secret_namespace: str | None = None,
    ) -> None:
        self._destinations = destinations
        self._credentials = credentials
        self._statuses = statuses
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
        only_if: OnlyIf = always,
    ) -> DestinationView:
        """Create or replace a destination from the fields of `DestinationSpec`; it stays enabled or disabled.

        Raises `ValidationError`, `MissingCredential` or `WriteConflictError`.
        """
        key = _key(tenant, name)
        spec = validation.convert(fields, DestinationSpec)
        self._check_url(spec.url)
        if await self._credentials.get(f"{tenant}.{spec.credential}") is None:
            raise MissingCredential

        def change(stored: bytes | None) -> Destination:
            state = stored and _decoded(key, stored, Destination)
            kept = {field: getattr(state, field) for field in _STATE_FIELDS} if state else {}
            return Destination(**msgspec.structs.asdict(spec), **kept)

        destination, revision = await self._change(self._destinations, key, change, only_if)
        await self._tell("destination", tenant, name, "set", by, address)
        return _destination_view(tenant, name, destination, revision)

    async def get_destination(self, tenant: str, name: str) -> DestinationView:
        """The destination. Raises `ValidationError` or `NotFoundError`."""
        entry = await self._destinations.find(_key(tenant, name))
        destination = _stored(entry, Destination)
        if destination is None:
            raise NotFoundError("destination")
        return _destination_view(tenant, name, destination, entry.revision)

    async def list_destinations(self, tenant: str) -> list[DestinationView]:
        """The tenant's destinations by id, without any that this version can't read. Raises `ValidationError`."""
        stored = [(entry, _stored(entry, Destination)) for entry in await self._destinations.list(_all_of(tenant))]
        return [
            _destination_view(tenant, _id(entry), found, entry.revision) for entry, found in stored if found is not None
        ]

    async def enable_destination(
        self, tenant: str, name: str, *, by: str, address: str | None = None, only_if: OnlyIf = always
    ) -> DestinationView:
        """Let deliveries go there. Raises `ValidationError`, `NotFoundError` or `WriteConflictError`."""
        state = {"enabled": True, "disabled_reason": None, "disabled_at": None}
        view = await self._switch(tenant, name, state, "enable", by, address, only_if)
        event = DestinationRecovered(
            specversion="1.0",
            id=str(uuid.uuid4()),
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=tenant,
            data=DestinationRecoveredData(destination=name),
        )
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
        only_if: OnlyIf = always,
    ) -> DestinationView:
        """Let no deliveries go there: they are kept, and can be replayed. Raises `ValidationError`, `NotFoundError` or `WriteConflictError`.

        With `only_url`, raises `WriteConflictError` when it has another URL by now, or is disabled already.
        """
        state = {
            "enabled": False,
            "disabled_reason": reason or f"disabled by {by}",
            "disabled_at": datetime.now(UTC),
        }
        view = await self._switch(tenant, name, state, "disable", by, address, only_if, only_url=only_url)
        event = DestinationDisabled(
            specversion="1.0",
            id=str(uuid.uuid4()),
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=tenant,
            data=DestinationDisabledData(destination=name, reason=view.disabled_reason or ""),
        )
        await publish_audit_event(self._publisher, "destination.disabled", name, event)
        return view

    async def delete_destination(
        self, tenant: str, name: str, *, by: str, address: str | None = None, only_if: OnlyIf = always
    ) -> None:
        """Forget a destination; what is still on its way there fails. Raises `ValidationError` or `NotFoundError`."""
        await self._delete(self._destinations, "destination", _key(tenant, name), only_if)
        await self._tell("destination", tenant, name, "delete", by, address)

    async def note_test(self, tenant: str, name: str, *, by: str, address: str | None = None) -> None:
        """Tell that somebody had a ping sent to a destination."""
        await self._tell("destination", tenant, name, "test", by, address)

    async def set_credential(
        self,
        tenant: str,
        name: str,
        fields: Mapping[str, object],
        *,
        by: str,
        address: str | None = None,
        only_if: OnlyIf = always,
    ) -> CredentialView:
        """Create or replace a credential from the fields of `Credential`. Raises `ValidationError` or `WriteConflictError`."""
        key = _key(tenant, name)
        asked = validation.convert(fields, Credential)
        credential = msgspec.structs.replace(asked, secret_ref=self._canonical(asked.secret_ref))
        if only_if is not always and not only_if(_revision(await self._credentials.find(key))):
            raise PreconditionFailedError  # also below: but what is known of the one that stays must stay, too
        if self._statuses is not None:  # first, so that nothing about the old ref is taken for the new one's
            await self._statuses.delete(key)
        _, revision = await self._change(self._credentials, key, lambda _: credential, only_if)
        await self._tell("credential", tenant, name, "set", by, address)
        return _credential_view(tenant, name, credential, None, revision)

    async def get_credential(self, tenant: str, name: str) -> CredentialView:
        """The credential, without its ref. Raises `ValidationError` or `NotFoundError`."""
        key = _key(tenant, name)
        entry = await self._credentials.find(key)
        credential = _stored(entry, Credential)
        if credential is None:
            raise NotFoundError("credential")
        state = None if self._statuses is None else _stored(await self._statuses.get(key), CredentialState)
        return _credential_view(tenant, name, credential, state, entry.revision)

    async def list_credentials(self, tenant: str) -> list[CredentialView]:
        """The tenant's credentials by id, without any that this version can't read. Raises `ValidationError`."""
        stored = [(entry, _stored(entry, Credential)) for entry in await self._credentials.list(_all_of(tenant))]
        checked = [] if self._statuses is None else await self._statuses.list(_all_of(tenant))
        states = {entry.key: _stored(entry, CredentialState) for entry in checked}
        return [
            _credential_view(tenant, _id(entry), found, states.get(entry.key), entry.revision)
            for entry, found in stored
            if found is not None
        ]

    async def delete_credential(
        self, tenant: str, name: str, *, by: str, address: str | None = None, only_if: OnlyIf = always
    ) -> None:
        """Forget a credential that no destination uses any more. Raises `ValidationError`, `NotFoundError` or `InUseError`."""
        key = _key(tenant, name)
        if await self._credentials.get(key) is None:
            raise NotFoundError("credential")
        users = [entry for entry in await self._destinations.list(_all_of(tenant)) if _credential_of(entry) == name]
        if users:
            raise InUseError(tuple(_id(entry) for entry in users))
        await self._delete(self._credentials, "credential", key, only_if)
        if self._statuses is not None:
            await self._statuses.delete(key)
        await self._tell("credential", tenant, name, "delete", by, address)

    async def _switch(
        self,
        tenant: str,
        name: str,
        state: Mapping[str, object],
        action: Action,
        by: str,
        address: str | None,
        only_if: OnlyIf,
        *,
        only_url: str | None = None,
    ) -> DestinationView:
        key = _key(tenant, name)

        def change(stored: bytes | None) -> Destination:
            destination = stored and _decoded(key, stored, Destination)
            if not destination:
                raise NotFoundError("destination")
            if only_url is not None and (destination.url != only_url or not destination.enabled):
                raise WriteConflictError
            return msgspec.structs.replace(destination, **state)

        destination, revision = await self._change(self._destinations, key, change, only_if)
        await self._tell("destination", tenant, name, action, by, address)
        return _destination_view(tenant, name, destination, revision)

    async def _change(
        self, bucket: KvBucket, key: str, change: Callable[[bytes | None], T], only_if: OnlyIf
    ) -> tuple[T, int]:
        """Read, change and write; all of it once more when somebody else wrote in between.

        Returns what is stored then, and its revision. Raises `PreconditionFailedError` or `WriteConflictError`.
        """
        for _ in range(MAX_TRIES):
            entry = await bucket.find(key)
            if not only_if(_revision(entry)):
                raise PreconditionFailedError
            value = change(entry.value)
            try:
                return value, await bucket.put(key, msgspec.json.encode(value), revision=entry.revision)
            except RejectedByServer as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise
        raise WriteConflictError

    async def _delete(self, bucket: KvBucket, kind: Kind, key: str, only_if: OnlyIf) -> None:
        """Delete what is there, as it was judged. Raises `NotFoundError`, `PreconditionFailedError` or `WriteConflictError`."""
        for _ in range(MAX_TRIES):
            entry = await bucket.find(key)
            if entry.value is None:
                raise NotFoundError(kind)
            if not only_if(entry.revision):
                raise PreconditionFailedError
            try:
                return await bucket.delete(key, revision=entry.revision)
            except RejectedByServer as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise
        raise WriteConflictError

    async def _tell(self, kind: Kind, tenant: str, name: str, action: Action, by: str, address: str | None) -> None:
        event = ConfigChanged(
            specversion="1.0",
            id=str(uuid.uuid4()),
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=tenant,
            data=ConfigChangedData(kind=kind, name=name, action=action, by=by, address=address),
        )
        await publish_audit_event(self._publisher, "config.changed", f"{kind}.{name}", event)

    def _check_url(self, url: str) -> None:
        try:
            self._egress.check_url(url)
        except EgressBlocked as error:
            blocked = error
        else:
            return
        mending = _MENDING.get(blocked.rule)
        raise ValidationError("url", f"{blocked}; {mending}" if mending else str(blocked))

    def _canonical(self, ref: str) -> str:
        try:
            return str(SecretRef.parse(ref, central_namespace=self._secret_namespace))
        except SecretRefInvalid:
            pass
        forms = "`k8s://NAMESPACE/SECRET/KEY`" + (" or `k8s://SECRET/KEY`" if self._secret_namespace else "")
        raise ValidationError(
            "secret_ref", f"expected {forms}, the name of a key in a Secret and not the secret itself"
        )


def _key(tenant: str, name: str) -> str:
    return f"{validation.name(tenant, 'tenant')}.{validation.name(name, 'id')}"


def _all_of(tenant: str) -> str:
    return f"{validation.name(tenant, 'tenant')}.*"


def _revision(entry: KvEntry) -> int:
    """What a change has to match: 0 for what is not, or no longer, there."""
    return 0 if entry.value is None else entry.revision


def _id(entry: KvEntry) -> str:
    return entry.key.partition(".")[2]


def _stored(entry: KvEntry | None, kind: type[T]) -> T | None:
    return None if entry is None or entry.value is None else _decoded(entry.key, entry.value, kind)


def _decoded(key: str, value: bytes, kind: type[T]) -> T | None:
    """What is stored, or None for what can't be understood: it counts as absent here as it does for consumers."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError:
        pass
    _log.error("config.undecodable", key=key)
    return None


class _SignedBody(msgspec.Struct):
    credential: str = ""


def _credential_of(entry: KvEntry) -> str:
    """The credential of a stored destination, also of one that can't be understood otherwise."""
    try:
        return msgspec.json.decode(entry.value or b"{}", type=_SignedBody).credential
    except msgspec.DecodeError:
        return ""


def _destination_view(tenant: str, name: str, destination: Destination, revision: int) -> DestinationView:
    return DestinationView(id=name, tenant=tenant, revision=revision, **msgspec.structs.asdict(destination))


def _credential_view(
    tenant: str, name: str, credential: Credential, state: CredentialState | None, revision: int
) -> CredentialView:
    found = state or CredentialState()
    return CredentialView(
        id=name,
        tenant=tenant,
        purpose=credential.purpose,
        provider=found.provider,
        status=found.status,
        checked_at=found.checked_at,
        version=found.version,
        rollover=found.rollover,
        revision=revision,
    )
