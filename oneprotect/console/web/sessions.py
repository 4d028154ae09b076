"""Sessions of the console: a cookie identifies a token without containing it.

A session has its own secret; the SHA-256 of the secret is stored beside the token for 12 hours. A session is valid as
long as its token, so revoking the token ends the session at once. A session gives access to the console only.
"""

import hashlib
import hmac
import secrets
import time
from typing import Final, NoReturn

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket
from messaging.quota import KeyQuota
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.auth.token_store import token_key
from schemas.ids import is_name

LIFETIME_S: Final = 12 * 3600
CHECK_INTERVAL_S: Final = 2.0
"""A stream ends within this time after another process has closed its session."""
_TOKEN: Final = "token:"


class ConsoleSession:
    """A signed-in user. A session cannot be printed, copied or pickled by mistake."""

    __slots__ = ("_secret", "checked_at", "id", "principal")

    def __init__(self, session_id: str, principal: Principal, secret: str) -> None:
        self.id: Final = session_id
        self.principal: Final = principal
        self.checked_at = time.monotonic()
        self._secret: Final = secret

    @property
    def cookie(self) -> str:
        """The cookie's value."""
        return f"{self.principal.id.removeprefix(_TOKEN)}.{self.id}.{self._secret}"

    @property
    def form_token(self) -> str:
        """The token of each form; only pages of this session contain it."""
        return hmac.digest(self._secret.encode(), b"form", "sha256").hex()

    @property
    def digest(self) -> bytes:
        """The stored digest of the secret."""
        return hashlib.sha256(self._secret.encode()).hexdigest().encode()

    @property
    def key(self) -> str:
        """The key of the digest, beside the token."""
        return f"{token_key(self.principal.tenant, self.principal.id.removeprefix(_TOKEN))}.session-{self.id}"

    def __repr__(self) -> str:
        return f"Session({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be copied")


class SessionStore:
    """The stored sessions. Every method raises `JetStreamError` when NATS is unavailable."""

    def __init__(self, bucket: KvBucket, tokens: TokenCache, quota: KeyQuota) -> None:
        self._bucket = bucket
        self._quota = quota
        self._tokens = tokens

    async def open(self, principal: Principal) -> ConsoleSession:
        """Open a session for a user who has just presented a token. Raises `QuotaExceeded`."""
        session = ConsoleSession(secrets.token_hex(8), principal, secrets.token_hex(32))
        await self._quota.require_room(session.key.partition(".")[0])
        await self._bucket.put(session.key, session.digest, revision=0, ttl_s=LIFETIME_S)
        return session

    async def find(self, cookie: str) -> ConsoleSession | None:
        """Return the session of a cookie if its token is still valid."""
        token_id, _, rest = cookie.partition(".")
        session_id, _, secret = rest.partition(".")
        principal = self._tokens.known(token_id)
        if principal is None or not is_name(session_id):
            return None
        session = ConsoleSession(session_id, principal, secret)
        return session if await self._is_stored(session) else None

    async def is_open(self, session: ConsoleSession) -> bool:
        """Return true while the session and its token are valid; read the session every `CHECK_INTERVAL_S`."""
        if self._tokens.known(session.principal.id.removeprefix(_TOKEN)) is None:
            return False
        if time.monotonic() - session.checked_at < CHECK_INTERVAL_S:
            return True
        session.checked_at = time.monotonic()
        try:
            return await self._is_stored(session)
        except JetStreamError:  # nothing can be shown either
            return True

    async def close(self, session: ConsoleSession) -> None:
        """Close the session."""
        await self._bucket.delete(session.key)

    async def _is_stored(self, session: ConsoleSession) -> bool:
        entry = await self._bucket.get(session.key)
        return entry is not None and hmac.compare_digest(entry.value or b"", session.digest)
