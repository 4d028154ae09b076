"""The credentials that tenants have registered, and what consumers last said of them."""

import contextlib

import msgspec
from msgspec import Struct

from messaging.client.connection import NatsConnection
from messaging.kv import KvBucket
from messaging.publisher import JetStreamPublisher
from provider.errors import SecretRefInvalid
from provider.secret_ref import SecretRef
from schemas import subjects
from schemas.configuration import Credential, CredentialState


class RegisteredCredential(Struct, frozen=True, kw_only=True):
    """A credential. `credential` is None when this version can't read what is stored, and `ref` when it is none."""

    tenant: str
    id: str
    credential: Credential | None
    ref: SecretRef | None
    state: CredentialState = CredentialState()

    @property
    def name(self) -> str:
        """How people know it. Its ref is never shown."""
        return f"{self.tenant}/{self.id}"

    def __repr__(self) -> str:
        return f"Registered({self.name!r})"


async def list_registered(connection: NatsConnection, central_namespace: str | None) -> list[RegisteredCredential]:
    """All of them, by tenant and id. Raises `JetStreamError`."""
    async with JetStreamPublisher(connection) as publisher:
        stored = await KvBucket(connection, publisher, subjects.CREDENTIALS).list()
        said = await KvBucket(connection, publisher, subjects.CREDENTIAL_STATUS).list()
    states = {entry.key: entry.value or b"" for entry in said}
    return [
        _registered(entry.key, entry.value or b"", states.get(entry.key, b""), central_namespace) for entry in stored
    ]


def _registered(key: str, stored: bytes, state: bytes, central_namespace: str | None) -> RegisteredCredential:
    tenant, _, name = key.partition(".")
    credential, ref, found = None, None, CredentialState()
    with contextlib.suppress(msgspec.DecodeError):
        credential = msgspec.json.decode(stored, type=Credential)
    with contextlib.suppress(msgspec.DecodeError):
        found = msgspec.json.decode(state, type=CredentialState)
    if credential is not None:
        with contextlib.suppress(SecretRefInvalid):
            ref = SecretRef.parse(credential.secret_ref, central_namespace=central_namespace)
    return RegisteredCredential(tenant=tenant, id=name, credential=credential, ref=ref, state=found)
