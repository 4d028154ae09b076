"""JWTs of an OpenID Connect issuer."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, cast

import jwt
import msgspec

from oneprotect.api.auth.jwks import IssuerKeys
from oneprotect.api.auth.principal import Principal
from schemas.ids import is_name
from schemas.roles import ALL_TENANTS, Role

LEEWAY_S: Final = 30
MAX_LENGTH: Final = 8192
MAX_CACHED: Final = 4096
MAX_SUBJECT: Final = 128


class _VerifiedJwt(msgspec.Struct, frozen=True):
    principal: Principal
    until: float


class JwtVerifier:
    """Verifies JWTs, and caches verified ones until they expire."""

    def __init__(
        self,
        keys: IssuerKeys,
        *,
        issuer: str,
        audience: str,
        algorithms: Sequence[str],
        tenant_claim: str,
        roles_claim: str,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = frozenset(algorithms)
        self._tenant_claim = tenant_claim
        self._roles_claim = roles_claim
        self._verified: OrderedDict[bytes, _VerifiedJwt] = OrderedDict()

    def find_verified(self, token: str) -> Principal | None:
        """Return the principal of a token that was verified before and has not expired."""
        digest = hashlib.sha256(token.encode()).digest()
        found = self._verified.get(digest)
        if found is None:
            return None
        if found.until <= time.time():
            del self._verified[digest]
            return None
        return found.principal

    async def verify(self, token: str) -> Principal | None:
        """Return the principal of a token, or None if it is not valid. Raises `KeysUnavailable`."""
        if len(token) > MAX_LENGTH:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms or not isinstance(key_id, str | None):
            return None
        key = await self._keys.find(key_id)
        claims = None if key is None else self._claims(token, key, algorithm)
        principal = None if claims is None else self._principal(claims)
        if principal is not None and claims is not None:
            self._cache(token, _VerifiedJwt(principal, float(claims["exp"])))
        return principal

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any] | None:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None

    def _principal(self, claims: dict[str, Any]) -> Principal | None:
        tenant, subject, roles = claims.get(self._tenant_claim), claims["sub"], claims.get(self._roles_claim, [])
        if not isinstance(tenant, str) or not (tenant == ALL_TENANTS or is_name(tenant)):
            return None
        if not isinstance(subject, str) or not (0 < len(subject) <= MAX_SUBJECT and subject.isprintable()):
            return None
        return Principal(tenant=tenant, roles=_roles(roles), id=f"oidc:{subject}")

    def _cache(self, token: str, verified: _VerifiedJwt) -> None:
        self._verified[hashlib.sha256(token.encode()).digest()] = verified
        if len(self._verified) > MAX_CACHED:
            self._verified.popitem(last=False)


def _roles(claim: object) -> frozenset[Role]:
    """Return the known roles of a list or of a string with spaces."""
    names: Sequence[object] = ()
    if isinstance(claim, str):
        names = claim.split()
    elif isinstance(claim, list):
        names = cast("list[object]", claim)
    return frozenset(role for role in Role if role.value in names)
