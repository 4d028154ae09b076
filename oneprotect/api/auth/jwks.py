"""An issuer's keys: fetched within bounds, kept, and fetched anew when a token names one that is not known."""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import msgspec
import structlog

REFRESH_S: Final = 3600.0
"""So old keys are fetched anew, in the background."""
KEPT_S: Final = 86_400.0
"""So long they are believed while the issuer does not answer."""
UNKNOWN_S: Final = 10.0
"""A key that is not known makes us look, at most this often: tokens with made-up ones are no lever."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64

_log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The issuer's keys have never been had, or not for too long."""


class _FetchedKeys(msgspec.Struct):
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class IssuerKeys:
    """Finds keys by their id. `jwks_url`: where they are, if the issuer is not to be asked."""

    def __init__(self, issuer: str, *, jwks_url: str | None = None, ca_file: Path | None = None) -> None:
        self._discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        self._jwks_url = jwks_url
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(cafile=ca_file)
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key, or None when the issuer has none of this id. Raises `KeysUnavailable`."""
        age_s = time.monotonic() - self._fetched_at
        key = self._find(key_id)
        if key is None or age_s > REFRESH_S:
            fetching = self._begin()
            if fetching is not None and (key is None or age_s > KEPT_S):
                await asyncio.shield(fetching)
        if time.monotonic() - self._fetched_at > KEPT_S:
            raise KeysUnavailable
        return self._find(key_id)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _begin(self) -> asyncio.Task[None] | None:
        """The fetching that is under way, or a new one unless there was one just now."""
        if self._fetching is None and time.monotonic() - self._tried_at > UNKNOWN_S:
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
            self._fetching.add_done_callback(self._done)
        return self._fetching

    def _done(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session:
                url = self._jwks_url or (await self._read(session, self._discovery, _FetchedKeys)).jwks_uri
                found = await self._read(session, url, _KeySet)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, ValueError) as error:
            _log.warning("oidc.keys_unavailable", error=type(error).__name__)
            return
        self._keys = {key.key_id: key for key in map(_key, found.keys[:MAX_KEYS]) if key is not None}
        self._fetched_at = time.monotonic()

    async def _read(self, session: aiohttp.ClientSession, url: str, kind: type[Any]) -> Any:  # noqa: ANN401
        if not url.startswith("https://") and not self._discovery.startswith("http://"):
            raise ValueError("an issuer over https has its keys there, too")
        async with session.get(url, ssl=self._tls, allow_redirects=False) as answer:
            answer.raise_for_status()
            content = await answer.content.read(MAX_BYTES + 1)
            while len(content) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                content += more
            if len(content) > MAX_BYTES:
                raise ValueError("too large")
            return msgspec.json.decode(content, type=kind)


def _key(found: dict[str, Any]) -> jwt.PyJWK | None:
    """A key that may verify; None for what is for something else, symmetric, or not understood."""
    if found.get("use", "sig") != "sig" or found.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        return jwt.PyJWK.from_dict(found)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
