"""Who is it that asks? A bearer token of ours, or (with an issuer configured) a JWT of somebody we trust."""

from typing import Final

from oneprotect.api.known_tokens import KnownTokens
from oneprotect.api.principals import Principal
from oneprotect.api.problems import Problem, unavailable
from oneprotect.api.throttle import BURST, Throttle
from oneprotect.api.token_text import PREFIX, id_of

CHALLENGE: Final = 'Bearer realm="oneprotect"'
INVALID: Final = f'{CHALLENGE}, error="invalid_token"'


class Authenticator:
    """Turns what a client sent into who that is.

    An address that keeps sending what is no good is told to wait. Who has a good token is let in all the same: somebody
    else behind the same address can't lock them out, and a token can't be guessed however often one tries.
    """

    def __init__(self, tokens: KnownTokens, *, failures: int = BURST) -> None:
        """`failures`: how often an address may fail at once."""
        self._tokens = tokens
        self._throttle = Throttle(burst=failures)

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


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"www-authenticate": challenge})
