"""The stored tokens: create, list and revoke."""

import uuid
from datetime import UTC, datetime
from typing import Final

import msgspec

from messaging.audit_events import publish_audit_event
from messaging.kv import KvBucket, KvTable
from messaging.publisher import JetStreamPublisher
from messaging.quota import KeyQuota
from oneprotect.api.auth.token_format import IssuedToken
from schemas import validation
from schemas.events import ConfigChanged, ConfigChangedData
from schemas.roles import ALL_TENANTS, Token, TokenSpec, TokenView

SOURCE: Final = "/oneprotect/tokens"
USED: Final = "used"

_ALL: Final = "_all"
"""The key part of tokens for all tenants; no tenant can have this name."""


class UnknownToken(Exception):
    """No token has this id."""

    def __init__(self) -> None:
        super().__init__("no token has this id; see `oneprotect token list`")


class TokenStore:
    """The bucket of tokens. Every method raises `JetStreamError` when NATS is unavailable."""

    def __init__(self, bucket: KvBucket, publisher: JetStreamPublisher, quota: KeyQuota | None = None) -> None:
        self._bucket = bucket
        self._tokens = KvTable(bucket, Token)
        self._uses = KvTable(bucket, datetime)
        self._publisher = publisher
        self._quota = quota

    async def create(self, spec: TokenSpec, *, by: str) -> tuple[TokenView, IssuedToken]:
        """Create a token. Only the returned `IssuedToken` has its text.

        Raises `ValidationError` or `QuotaExceeded`.
        """
        spec = validation.round_trip(spec)
        issued = IssuedToken()
        token = Token(
            tenant=spec.tenant,
            roles=tuple(sorted(set(spec.roles))),
            digest=issued.digest,
            created_at=datetime.now(UTC),
            created_by=by,
            name=spec.name,
        )
        if self._quota is not None:
            await self._quota.require_room(_key_part(token.tenant))
        await self._tokens.put(token_key(token.tenant, issued.id), token, revision=0)
        await self._audit(token.tenant, issued.id, "create", by)
        return _view(issued.id, token, None), issued

    async def list(self, tenant: str | None = None) -> list[TokenView]:
        """Return the tokens of one tenant (`*`: the tokens for all tenants) or of every tenant, oldest first."""
        pattern = "*" if tenant is None else _key_part(tenant)
        rows = await self._tokens.list(f"{pattern}.*")
        uses = {row.key: row.value for row in await self._uses.list(f"{pattern}.*.{USED}")}
        views = [_view(row.id, row.value, uses.get(f"{row.key}.{USED}")) for row in rows]
        return sorted(views, key=lambda view: view.created_at)

    async def delete(self, token_id: str, *, by: str) -> TokenView:
        """Revoke a token; API processes reject it within a second. Raises `UnknownToken` or `ValidationError`."""
        for row in await self._tokens.list(f"*.{validation.name(token_id, 'id')}"):
            await self._bucket.delete(row.key)
            await self._bucket.delete(f"{row.key}.{USED}")
            await self._audit(row.value.tenant, token_id, "delete", by)
            return _view(token_id, row.value, None)
        raise UnknownToken

    async def _audit(self, tenant: str, token_id: str, action: str, by: str) -> None:
        event = ConfigChanged(
            specversion="1.0",
            id=str(uuid.uuid4()),
            source=SOURCE,
            time=datetime.now(UTC),
            tenant=_key_part(tenant),
            data=msgspec.convert({"kind": "token", "name": token_id, "action": action, "by": by}, ConfigChangedData),
        )
        await publish_audit_event(self._publisher, "config.changed", f"token.{token_id}", event)


def token_key(tenant: str, token_id: str) -> str:
    """Return the key of a token. Keys of what belongs to the token begin with this key."""
    return f"{_key_part(tenant)}.{token_id}"


def _key_part(tenant: str) -> str:
    return _ALL if tenant == ALL_TENANTS else validation.name(tenant, "tenant")


def _view(token_id: str, token: Token, last_used_at: datetime | None) -> TokenView:
    return TokenView(
        id=token_id,
        tenant=token.tenant,
        roles=token.roles,
        name=token.name,
        created_at=token.created_at,
        created_by=token.created_by,
        last_used_at=last_used_at,
    )
