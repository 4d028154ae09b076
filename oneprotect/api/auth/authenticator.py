"""Who is it that asks? A bearer token of ours, or (with an issuer configured) a JWT of somebody we trust."""

from typing import Final

import structlog

from oneprotect.api.auth.failure_throttle import BURST, FailureThrottle
from oneprotect.api.auth.jwks import KeysUnavailable
from oneprotect.api.auth.jwt import JwtVerifier
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.auth.token_format import PREFIX, id_of
from oneprotect.api.web.problems import RETRY_AFTER_S, Problem, unavailable

CHALLENGE: Final = 'Bearer realm="oneprotect"'
INVALID: Final = f'{CHALLENGE}, error="invalid_token"'

_log = structlog.get_logger(__name__)


class Authenticator:
    """Turns what a client sent into who that is.

    An address that keeps sending what is no good is told to wait. Who has a good token is let in all the same: somebody
    else behind the same address can't lock them out, and a token can't be guessed however often one tries.
    """

    def __init__(self, tokens: TokenCache, *, failures: int = BURST, jwts: JwtVerifier | None = None) -> None:
        """`failures`: how often an address may fail at once. `jwts`: for the second way in."""
        self._tokens = tokens
        self._jwts = jwts
        self._throttle = FailureThrottle(burst=failures)

    async def authenticate(self, authorization: str | None, address: str) -> Principal:
        """Who sent this `Authorization` header, from `address`. Raises `Problem` 401, 429 or 503."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("A bearer token is needed: `Authorization: Bearer …`.", CHALLENGE)
        return await self.identify(token.strip(), address)

    async def identify(self, token: str, address: str) -> Principal:
        """Who a bare token belongs to; for a sign-in form. Raises as `authenticate` does."""
        if not self._tokens.is_ready:
            raise unavailable()
        token_id = id_of(token)
        if token_id is None and self._jwts is not None and token.count(".") == 2:
            return await self._of_jwt(self._jwts, token, address)
        if token_id is None:
            mistyped = token.startswith(PREFIX)
            detail = "This token is mistyped: its checksum does not fit." if mistyped else "This is no token of ours."
            raise self._refusal(detail, address)
        principal = self._tokens.find(token_id, token)
        if principal is None and not self._throttle.wait_s(address):
            principal = await self._tokens.look_up(token_id, token)
        if principal is None:
            raise self._refusal("This token is unknown, or was revoked.", address)
        return principal

    async def _of_jwt(self, jwts: JwtVerifier, token: str, address: str) -> Principal:
        principal = jwts.known(token)
        if principal is None and not self._throttle.wait_s(address):
            try:
                principal = await jwts.verify(token)
            except KeysUnavailable:
                _log.warning("oidc.no_keys")
                raise _no_keys() from None
        if principal is None:
            raise self._refusal("This JWT is not taken here: check issuer, audience, expiry, tenant and key.", address)
        return principal

    def _refusal(self, detail: str, address: str) -> Problem:
        self._throttle.note(address)
        if wait_s := self._throttle.wait_s(address):
            return Problem(
                429,
                "too-many-failures",
                "This address has failed to authenticate too often; wait before the next try.",
                headers={"retry-after": str(wait_s)},
            )
        return _unauthorized(detail, INVALID)


def _no_keys() -> Problem:
    return Problem(
        503,
        "issuer-unavailable",
        "The keys of the JWT's issuer can't be had right now. Try again.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"www-authenticate": challenge})
