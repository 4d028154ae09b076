"""Sessions of the console: a cookie stands for a token without being one.

Signing in with a token makes a secret of its own, and keeps its SHA-256 in a row beside the token, for half a day. A
session is good as long as its token is, so revoking the token ends it at once, and it opens nothing but the console.
"""

import hashlib
import hmac
import secrets
from typing import Final, NoReturn

from messaging.kv import KvBucket
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from schemas.ids import is_name
from schemas.roles import ALL_TENANTS

LASTS_S: Final = 12 * 3600
_TOKEN: Final = "token:"
_ALL: Final = "_all"


class ConsoleSession:
    """Somebody who is signed in. It can't be printed, copied or pickled by mistake."""

    __slots__ = ("_secret", "id", "principal")

    def __init__(self, session_id: str, principal: Principal, secret: str) -> None:
        self.id: Final = session_id
        self.principal: Final = principal
        self._secret: Final = secret

    @property
    def cookie(self) -> str:
        """What the browser keeps."""
        return f"{self.principal.id.removeprefix(_TOKEN)}.{self.id}.{self._secret}"

    @property
    def form_token(self) -> str:
        """What each form carries: nobody can know it who does not see the session's pages."""
        return hmac.digest(self._secret.encode(), b"form", "sha256").hex()

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return hashlib.sha256(self._secret.encode()).hexdigest().encode()

    @property
    def key(self) -> str:
        """Where that is kept: beside the token."""
        tenant = _ALL if self.principal.tenant == ALL_TENANTS else self.principal.tenant
        return f"{tenant}.{self.principal.id.removeprefix(_TOKEN)}.session-{self.id}"

    def __repr__(self) -> str:
        return f"Session({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is not copied")


class SessionStore:
    """Opens, finds and ends sessions. Any method raises `JetStreamError` when NATS can't be asked."""

    def __init__(self, bucket: KvBucket, tokens: TokenCache) -> None:
        self._bucket = bucket
        self._tokens = tokens

    async def open(self, principal: Principal) -> ConsoleSession:
        """A new session of whoever has just shown a token."""
        session = ConsoleSession(secrets.token_hex(8), principal, secrets.token_hex(32))
        await self._bucket.put(session.key, session.digest, revision=0, ttl_s=LASTS_S)
        return session

    async def find(self, cookie: str) -> ConsoleSession | None:
        """The session that a cookie stands for, if its token is still good."""
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
        """End it."""
        await self._bucket.delete(session.key)
