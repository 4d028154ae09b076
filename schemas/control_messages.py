"""Requests to consumers over core NATS."""

from datetime import datetime

from msgspec import Struct

from schemas.ids import CredentialId, TenantId


class RefreshSecrets(Struct, frozen=True, kw_only=True):
    """A request to evict the Secret of a credential, the Secrets of a tenant, or all Secrets."""

    tenant: TenantId | None = None
    credential: CredentialId | None = None


class RefreshReply(Struct, frozen=True, kw_only=True):
    """The reply of one consumer: the number of evicted Secrets, or None for all."""

    worker: str
    forgotten: int | None = None


class CheckCredential(Struct, frozen=True, kw_only=True):
    """A request to read a credential's Secret now, and to reply with its state."""

    tenant: TenantId
    credential: CredentialId


class ForgetTenant(Struct, frozen=True, kw_only=True):
    """A request to drop what is in memory of a tenant that is being removed."""

    tenant: TenantId


class ForgetReply(Struct, frozen=True, kw_only=True):
    """The reply of one consumer: the tenant's messages that it still handles."""

    worker: str
    in_hand: int


class HeldMessages(Struct, frozen=True, kw_only=True):
    """A question for the messages of a stream that a consumer has in hand."""

    stream: str
    sequences: tuple[int, ...]


class HeldReply(Struct, frozen=True, kw_only=True):
    """The reply of one consumer: those of the sequences that it has in hand."""

    worker: str
    held: tuple[int, ...]


class HandedOver(Struct, frozen=True, kw_only=True):
    """Messages of the work stream that no consumer has in hand until a time of the server: a queue may move them."""

    sequences: tuple[int, ...]
    until: datetime
