"""The credentials of all tenants, with the status that consumers reported."""

import contextlib

from msgspec import Struct

from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket, KvTable
from messaging.publisher import JetStreamPublisher
from provider.errors import SecretRefInvalid
from provider.secret_ref import SecretRef
from schemas import streams
from schemas.configuration import Credential, CredentialState


class RegisteredCredential(Struct, frozen=True, kw_only=True):
    """A credential. `credential` is None when this version cannot decode it, and `ref` when the ref is invalid."""

    tenant: str
    id: str
    credential: Credential | None
    ref: SecretRef | None
    state: CredentialState = CredentialState()

    @property
    def name(self) -> str:
        """`tenant/id`. The ref is never shown."""
        return f"{self.tenant}/{self.id}"

    def __repr__(self) -> str:
        return f"RegisteredCredential({self.name!r})"


async def list_registered(connection: NatsConnection, central_namespace: str | None) -> list[RegisteredCredential]:
    """List all credentials, by tenant and id. Raises `JetStreamError`."""
    async with JetStreamPublisher(connection) as publisher:
        credentials = KvTable(KvBucket(connection, publisher, streams.CREDENTIALS), Credential)
        statuses = KvTable(KvBucket(connection, publisher, streams.CREDENTIAL_STATUS), CredentialState)
        stored = await credentials.bucket.list("*.*")
        states = {row.key: row.value for row in await statuses.list("*.*")}
    return [
        _registered(entry.key, credentials.decode(entry), states.get(entry.key, CredentialState()), central_namespace)
        for entry in stored
    ]


def _registered(
    key: str, credential: Credential | None, state: CredentialState, central_namespace: str | None
) -> RegisteredCredential:
    tenant, _, name = key.partition(".")
    ref = None
    if credential is not None:
        with contextlib.suppress(SecretRefInvalid):
            ref = SecretRef.parse(credential.secret_ref, central_namespace=central_namespace)
    return RegisteredCredential(tenant=tenant, id=name, credential=credential, ref=ref, state=state)
