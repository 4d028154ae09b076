"""One Secret as it was at one moment: whose it is, what for, and the keys in it, ready to sign."""

from collections.abc import Mapping
from typing import Final, final

from provider.errors import SecretError, SecretMalformed, SecretMismatch, SecretNotFound
from provider.opaque import Opaque
from provider.signing_keys import SigningSecret
from schemas.ids import Purpose


@final
class SecretSnapshot(Opaque):
    """What one read of a Secret gave. Whoever asks must be the owner, each time: keeping it grants nothing."""

    __slots__ = ("_purpose", "_secrets", "tenant", "version")

    def __init__(
        self,
        *,
        tenant: str | None,
        purpose: str | None,
        version: str,
        secrets: Mapping[str, SigningSecret | None],
    ) -> None:
        """`tenant` and `purpose` are the Secret's labels, None without; in `secrets`, None is a malformed key."""
        self.tenant: Final = tenant
        """Whose it says it is. To decide who may have it, ask `find`."""
        self._purpose = purpose
        self._secrets = secrets
        self.version: Final = version

    def find(self, key: str, *, tenant: str, purpose: Purpose) -> SigningSecret | type[SecretError]:
        """The secret under `key`, or the error to raise. The labels come first: others learn nothing of the keys."""
        if not tenant or self.tenant != tenant or self._purpose != purpose:
            return SecretMismatch
        if key not in self._secrets:
            return SecretNotFound
        return self._secrets[key] or SecretMalformed

    def select(self, key: str, *, tenant: str, purpose: Purpose) -> SigningSecret:
        """The secret under `key`. Raises `SecretMismatch`, `SecretNotFound` or `SecretMalformed`."""
        found = self.find(key, tenant=tenant, purpose=purpose)
        if isinstance(found, SigningSecret):
            return found
        raise found
