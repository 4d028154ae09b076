"""What consumers are asked over core NATS, outside of any stream."""

from msgspec import Struct

from schemas.ids import CredentialId, TenantId


class RefreshSecrets(Struct, frozen=True, kw_only=True):
    """Forget what is remembered of one credential's Secret, of a tenant's, or, with neither named, of all."""

    tenant: TenantId | None = None
    credential: CredentialId | None = None


class RefreshReply(Struct, frozen=True, kw_only=True):
    """One consumer's answer: how many Secrets it forgot; None when it forgot all."""

    worker: str
    forgotten: int | None = None


class CheckCredential(Struct, frozen=True, kw_only=True):
    """Read a credential's Secret now, and say how it is."""

    tenant: TenantId
    credential: CredentialId
