"""Secret as it was at one moment: owner, purpose, and keys ready to sign."""

from collections.abc import Mapping
from typing import Final, final

from provider.errors import SecretError, SecretMalformed, SecretMismatch, SecretNotFound
from provider.opaque import Opaque
from provider.signing_secret import SigningSecret
from schemas.ids import Purpose


@final
class SecretSnapshot(Opaque):
    """Result of one read of a Secret. Every lookup checks the owner, so holding a snapshot grants nothing."""

    __slots__ = ("_purpose", "_secrets", "malformed", "tenant", "version")

    def __init__(
        self,
        *,
        tenant: str | None,
        purpose: str | None,
        version: str,
        secrets: Mapping[str, SigningSecret | None],
        malformed: bool = False,
    ) -> None:
        """Hold labels, version (`uid/resourceVersion`) and secrets by key; None marks a malformed key.

        `malformed`: no key of the Secret can be used.
        """
        self.tenant: Final = tenant
        self._purpose = purpose
        self._secrets = secrets
        self.malformed: Final = malformed
        self.version: Final = version

    def find_secret(self, key: str, *, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError]:
        """Return the secret under `key`, or the error to raise. Labels are checked before the key is looked up."""
        if not tenant or self.tenant != tenant or self._purpose != purpose:
            return SecretMismatch
        if self.malformed:
            return SecretMalformed
        if key not in self._secrets:
            return SecretNotFound
        return self._secrets[key] or SecretMalformed

    def require_secret(self, key: str, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """Return the secret under `key`. Raises `SecretMismatch`, `SecretNotFound` or `SecretMalformed`."""
        found = self.find_secret(key, tenant=tenant, purpose=purpose)
        if isinstance(found, SigningSecret):
            return found
        raise found
