"""Interfaces between deliveries and the store that holds their secrets."""

from typing import Protocol

from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose


class SecretProvider(Protocol):
    """Resolver of the secrets that tenants registered. A process has one provider and no fallback."""

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """Return the secret behind `ref`, checked to belong to `tenant` and to serve `purpose`.

        Raises a `SecretError`; no other exception leaves a provider.
        """
        ...

    async def aclose(self) -> None:
        """Close connections and drop every key in memory."""
        ...


class SnapshotReader(Protocol):
    """Provider that reads whole Secrets: the source behind the cache."""

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        """Read the Secret that `ref` names, with all its keys. Raises a `SecretError`."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
