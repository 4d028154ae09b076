"""The tokens that this process takes: all of them in memory, following the bucket as it changes.

A token that is revoked is refused as soon as the bucket has announced it, some milliseconds later. Announcements can be
missed while the connection is away, so all are read anew after a reconnect, and every minute anyhow.
"""

import asyncio
import contextlib
import hmac
import time
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvEntry, KvTable
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_format import digest
from oneprotect.api.auth.token_store import USED
from schemas.roles import Token

READ_AGAIN_S: Final = 60.0
USE_TOLD_S: Final = 60.0
_RETRY_S: Final = 1.0

_log = structlog.get_logger(__name__)


class _CachedToken(msgspec.Struct, frozen=True):
    key: str
    digest: str
    principal: Principal


class TokenCache:
    """Finds who a token belongs to, without asking anybody."""

    def __init__(self, bucket: KvBucket, connection: NatsConnection) -> None:
        self._bucket = bucket
        self._tokens = KvTable(bucket, Token)
        connection.on_reconnect(self.forget)
        self._known: dict[str, _CachedToken] = {}
        self._revisions: dict[str, int] = {}
        """The newest revision of each key that was seen, those of deleted ones too: a replica may lag behind."""
        self._used: dict[str, datetime] = {}
        self._told: dict[str, float] = {}
        self._stale = asyncio.Event()
        self.is_ready = False

    async def run(self) -> None:
        """Hear of changes, read what there is, and write down when tokens were used, until cancelled."""
        await self._bucket.on_change(self._take)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_again())
            tasks.create_task(self._tell_uses())

    async def forget(self) -> None:
        """After a reconnect: announcements may have been missed."""
        self._stale.set()

    def find(self, token_id: str, text: str) -> Principal | None:
        """Who the token `text`, whose id is `token_id`, belongs to. The comparison takes as long for any text."""
        known = self._known.get(token_id)
        if known is None or not hmac.compare_digest(known.digest, digest(text)):
            return None
        self._used[known.key] = datetime.now(UTC)
        return known.principal

    def known(self, token_id: str) -> Principal | None:
        """Who has the token of this id, if it is still good. For sessions: whoever opened one has shown the token."""
        known = self._known.get(token_id)
        return known.principal if known else None

    async def look_up(self, token_id: str, text: str) -> Principal | None:
        """The same for one that was made just now, so that it has not been announced yet. Raises `JetStreamError`."""
        for entry in await self._bucket.list(f"*.{token_id}"):
            await self._take(entry)
        return self.find(token_id, text)

    async def _take(self, entry: KvEntry) -> None:
        if entry.key.count(".") != 1 or entry.revision <= self._revisions.get(entry.key, 0):
            return
        self._revisions[entry.key] = entry.revision
        token_id = entry.key.rpartition(".")[2]
        token = self._tokens.decode(entry)
        if token is None:
            self._known.pop(token_id, None)
        else:
            self._known[token_id] = _CachedToken(entry.key, token.digest, _principal(token_id, token))

    async def _read(self) -> None:
        before = dict(self._revisions)
        entries = await self._bucket.list("*.*")
        for entry in entries:
            await self._take(entry)
        gone = before.keys() - {entry.key for entry in entries}
        for key in gone:
            if self._revisions[key] == before[key]:  # and not made anew meanwhile
                self._known.pop(key.rpartition(".")[2], None)
        self.is_ready = True

    async def _read_again(self) -> None:
        while True:
            self._stale.clear()
            try:
                await self._read()
            except JetStreamError as error:
                _log.warning("tokens.unreadable", error=str(error), next_try_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), READ_AGAIN_S)

    async def _tell_uses(self) -> None:
        while True:
            await asyncio.sleep(USE_TOLD_S / 12)
            await self.tell_uses()

    async def tell_uses(self) -> None:
        """Write down when tokens were used last: each at most once a minute, and never while a request waits."""
        used, self._used = self._used, {}
        for key, at in used.items():
            if time.monotonic() - self._told.get(key, -USE_TOLD_S) < USE_TOLD_S:
                self._used.setdefault(key, at)
                continue
            if key.rpartition(".")[2] in self._known:
                self._told[key] = time.monotonic()
                with contextlib.suppress(JetStreamError):  # it is a courtesy: the next use tells it
                    await self._bucket.put(f"{key}.{USED}", msgspec.json.encode(at))


def _principal(token_id: str, token: Token) -> Principal:
    return Principal(tenant=token.tenant, roles=frozenset(token.roles), id=f"token:{token_id}", name=token.name)
