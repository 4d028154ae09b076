"""Sessions of the console: a cookie identifies a token without containing it.

A session has its own secret; the SHA-256 of the secret is stored beside the token for 12 hours. A session is valid as
long as its token, so revoking the token ends the session at once. A session gives access to the console only.
"""

import hashlib
import hmac
import secrets
from typing import Final, NoReturn

from messaging.kv import KvBucket
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.auth.token_store import token_key
from schemas.ids import is_name

LIFETIME_S: Final = 12 * 3600
_TOKEN: Final = "token:"


class ConsoleSession:
    """A signed-in user. A session cannot be printed, copied or pickled by mistake."""

    __slots__ = ("_secret", "id", "principal")

    def __init__(self, session_id: str, principal: Principal, secret: str) -> None:
        self.id: Final = session_id
        self.principal: Final = principal
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

    def __init__(self, bucket: KvBucket, tokens: TokenCache) -> None:
        self._bucket = bucket
        self._tokens = tokens

    async def open(self, principal: Principal) -> ConsoleSession:
        """Open a session for a user who has just presented a token."""
        session = ConsoleSession(secrets.token_hex(8), principal, secrets.token_hex(32))
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
        entry = await self._bucket.get(session.key)
        if entry is None or not hmac.compare_digest(entry.value or b"", session.digest):
            return None
        return session

    async def close(self, session: ConsoleSession) -> None:
        """Close the session."""
        await self._bucket.delete(session.key)
