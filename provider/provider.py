"""The seam between deliveries and where their secrets are kept."""

from typing import Protocol

from provider.secret_ref import SecretRef
from provider.signing_keys import SigningSecret
from schemas.ids import Purpose


class SecretProvider(Protocol):
    """Resolves the secret that a tenant registered for a purpose. A process has one provider, and no fallback."""

    async def resolve(self, ref: SecretRef, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """Return the secret behind `ref`, checked to be `tenant`'s and meant for `purpose`.

        Raises a `SecretError`, which carries a code and nothing else. Never returns an empty or doubtful secret.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and of every key in memory."""
        ...
