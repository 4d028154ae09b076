"""The tokens of all tenants in memory.

A revoked token is refused as soon as the bucket has announced the change. All tokens are read again within a minute,
and after a reconnect, because announcements can be lost while the connection is down.
"""

import asyncio
import contextlib
import hmac
import math
import time
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.kv_cache import REPLICA_LAG_S, KvCache
from messaging.periodic import pause
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_format import digest
from oneprotect.api.auth.token_store import USED
from schemas.roles import ALL_TENANTS, Token

READ_AGAIN_S: Final = 60.0 - REPLICA_LAG_S
"""A lost announcement counts within a minute, even of a token that was announced just before."""
RECORD_USE_EVERY_S: Final = 60.0
_RETRY_S: Final = 1.0

_log = structlog.get_logger(__name__)


class _CachedToken(msgspec.Struct, frozen=True):
    key: str
    digest: str
    principal: Principal


class TokenCache:
    """Finds the principal of a token without a request to NATS."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._bucket = bucket
        # A token that was read stays valid until it is revoked: while NATS is down, requests are still authenticated.
        self._rows = KvCache(KvTable(bucket, Token), max_age_s=math.inf, is_whole=True)
        self._rows.on_update = self._on_update
        self._tokens: dict[str, _CachedToken] = {}
        self._used: dict[str, datetime] = {}
        self._recorded_at: dict[str, float] = {}
        self._stale = asyncio.Event()
        self.is_ready = False
        connection.on_reconnect(self.forget)

    async def run(self) -> None:
        """Follow changes, read all tokens, and record when tokens were used, until cancelled."""
        await self._bucket.on_change(self._receive)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_repeatedly())
            tasks.create_task(self._record_uses_repeatedly())

    async def forget(self) -> None:
        """Read all tokens again: announcements may have been lost."""
        self._rows.expire(keep_announced=False)
        self._stale.set()

    def find(self, token_id: str, text: str) -> Principal | None:
        """Return the principal of the token `text` with the id `token_id`, comparing in constant time."""
        token = self._tokens.get(token_id)
        if token is None or not hmac.compare_digest(token.digest, digest(text)):
            return None
        self._used[token.key] = datetime.now(UTC)
        return token.principal

    def known(self, token_id: str) -> Principal | None:
        """Return the principal of a valid token by its id alone, for sessions that were opened with the token."""
        token = self._tokens.get(token_id)
        return token.principal if token else None

    def tenants(self) -> set[str]:
        """Return the tenants that have a token."""
        return {token.principal.tenant for token in self._tokens.values()} - {ALL_TENANTS}

    async def look_up(self, token_id: str, text: str) -> Principal | None:
        """Read the token from the bucket, because it may be new, and return its principal. Raises `JetStreamError`."""
        async for entry in self._bucket.read(f"*.{token_id}"):
            self._rows.add(entry)
        return self.find(token_id, text)

    async def record_uses(self) -> None:
        """Store when tokens were last used: at most once a minute for each token."""
        used, self._used = self._used, {}
        for key, at in used.items():
            if time.monotonic() - self._recorded_at.get(key, -RECORD_USE_EVERY_S) < RECORD_USE_EVERY_S:
                self._used.setdefault(key, at)
            elif key.rpartition(".")[2] in self._tokens:
                self._recorded_at[key] = time.monotonic()
                with contextlib.suppress(JetStreamError):  # the next use stores it
                    await self._bucket.put(f"{key}.{USED}", msgspec.json.encode(at))

    async def _receive(self, entry: KvEntry) -> None:
        if entry.key.count(".") == 1:  # not the time of last use
            await self._rows.receive(entry)

    def _on_update(self, key: str, _old: Token | None, new: Token | None) -> None:
        token_id = key.rpartition(".")[2]
        if new is None:
            self._tokens.pop(token_id, None)
        else:
            principal = Principal(tenant=new.tenant, roles=frozenset(new.roles), id=f"token:{token_id}", name=new.name)
            self._tokens[token_id] = _CachedToken(key, new.digest, principal)

    async def _read_repeatedly(self) -> None:
        while True:
            self._stale.clear()
            try:
                await self._rows.read_all("*.*")
            except JetStreamError as error:
                _log.warning("tokens.unreadable", error=str(error), next_try_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
            else:
                self.is_ready = True
                await pause(READ_AGAIN_S, self._stale)

    async def _record_uses_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(RECORD_USE_EVERY_S / 12)
            await self.record_uses()
