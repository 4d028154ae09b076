"""Authentication: bearer tokens of this product and, if an issuer is configured, JWTs."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from messaging.token_buckets import TokenBuckets
from oneprotect.api.auth.jwks import KeysUnavailable
from oneprotect.api.auth.jwt import JwtVerifier
from oneprotect.api.auth.principal import Principal
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.auth.token_format import PREFIX, parse_token_id
from oneprotect.api.web.problems import RETRY_AFTER_S, Problem, unavailable
from telemetry.bounded_http import network_of

CHALLENGE: Final = 'Bearer realm="oneprotect"'
INVALID: Final = f'{CHALLENGE}, error="invalid_token"'
BURST: Final = 20
PER_S: Final = 0.5
LOOK_UPS_PER_S: Final = 50.0
"""Look-ups of unknown tokens by this process. A new token is known without one as soon as it is announced."""

_log = structlog.get_logger(__name__)


class FailureThrottle:
    """Failed authentications by client address: `burst` at once, then `per_s` a second. Keeps the latest addresses."""

    def __init__(
        self, *, burst: int = BURST, per_s: float = PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = TokenBuckets(burst=burst, per_s=per_s, clock=clock)

    def record(self, address: str) -> None:
        """Record a failure of the address."""
        self._failures.take(network_of(address))

    def wait_s(self, address: str) -> int:
        """Return the whole seconds until the address may fail again; 0 for now."""
        return self._failures.wait_s(network_of(address))


class Authenticator:
    """Finds the principal of a token.

    A valid token is always accepted, so that other clients behind the address cannot lock its owner out. What fails
    costs little: a JWT is verified in memory, and unknown key ids cause one fetch in ten seconds. Unknown tokens are
    looked up within limits, for each address and in all. Guessing a token is infeasible at any rate.
    """

    def __init__(self, tokens: TokenCache, *, failures: int = BURST, jwts: JwtVerifier | None = None) -> None:
        """`failures`: the number of failures of an address that are allowed at once."""
        self._tokens = tokens
        self._jwts = jwts
        self._throttle = FailureThrottle(burst=failures)
        self._look_ups = TokenBuckets(burst=LOOK_UPS_PER_S, per_s=LOOK_UPS_PER_S)

    async def authenticate(self, authorization: str | None, address: str) -> Principal:
        """Return the principal of an `Authorization` header. Raises `Problem` 401, 429 or 503."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("A bearer token is required. Send `Authorization: Bearer TOKEN`.", CHALLENGE)
        return await self.identify(token.strip(), address)

    async def identify(self, token: str, address: str) -> Principal:
        """Return the principal of a token. Raises `Problem` 401, 429 or 503."""
        if not self._tokens.is_ready:
            raise unavailable()
        token_id = parse_token_id(token)
        if token_id is None and self._jwts is not None and token.count(".") == 2:
            return await self._identify_jwt(self._jwts, token, address)
        if token_id is None:
            is_mistyped = token.startswith(PREFIX)
            detail = "The checksum of the token is wrong." if is_mistyped else "The token has an unknown format."
            raise self._reject(f"{detail} Copy the whole token again.", address)
        principal = self._tokens.find(token_id, token)
        if principal is None and not (self._throttle.wait_s(address) or self._look_ups.wait_s("")):
            self._look_ups.take("")
            principal = await self._tokens.look_up(token_id, token)
        if principal is None:
            raise self._reject("The token is unknown or was revoked. Create a new one.", address)
        return principal

    async def _identify_jwt(self, jwts: JwtVerifier, token: str, address: str) -> Principal:
        principal = jwts.find_verified(token)
        if principal is None:  # whatever failed from this address before: verifying costs less than answering
            try:
                principal = await jwts.verify(token)
            except KeysUnavailable:
                _log.warning("oidc.no_keys")
                detail = "The keys of the JWT issuer are not available. Retry the request."
                headers = {"retry-after": str(RETRY_AFTER_S)}
                raise Problem(503, "issuer-unavailable", detail, headers=headers) from None
        if principal is None:
            raise self._reject("The JWT is not valid. Check its issuer, audience, expiry, tenant and key.", address)
        return principal

    def _reject(self, detail: str, address: str) -> Problem:
        self._throttle.record(address)
        if wait_s := self._throttle.wait_s(address):
            detail = "This address has failed to authenticate too often. Wait before the next try."
            return Problem(429, "too-many-failures", detail, headers={"retry-after": str(wait_s)})
        return _unauthorized(detail, INVALID)


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"www-authenticate": challenge})
