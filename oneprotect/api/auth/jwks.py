"""The public keys of a JWT issuer: fetched within limits, cached, and refreshed for an unknown key id."""

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
"""The age at which the keys are fetched again in the background."""
MAX_STALE_S: Final = 86_400.0
"""The age up to which the keys are used while the issuer does not respond."""
MIN_INTERVAL_S: Final = 10.0
"""The minimum time between fetches, so that invented key ids cause no load on the issuer."""
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64

_log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The keys were never fetched, or are too old."""


class _Discovery(msgspec.Struct):
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class IssuerKeys:
    """Finds keys by their id. `jwks_url` replaces the discovery document of the issuer."""

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
        """Return the key, or None for an unknown id. Raises `KeysUnavailable`."""
        age_s = time.monotonic() - self._fetched_at
        key = self._find(key_id)
        if key is None or age_s > REFRESH_S:
            fetching = self._ensure_fetching()
            if fetching is not None and (key is None or age_s > MAX_STALE_S):
                await asyncio.shield(fetching)
        if time.monotonic() - self._fetched_at > MAX_STALE_S:
            raise KeysUnavailable
        return self._find(key_id)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _ensure_fetching(self) -> asyncio.Task[None] | None:
        """Return the current fetch or a new one; None within `MIN_INTERVAL_S` of the last one."""
        if self._fetching is None and time.monotonic() - self._tried_at > MIN_INTERVAL_S:
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
            self._fetching.add_done_callback(self._done)
        return self._fetching

    def _done(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session:
                url = self._jwks_url or (await self._read(session, self._discovery, _Discovery)).jwks_uri
                found = await self._read(session, url, _KeySet)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, ValueError) as error:
            _log.warning("oidc.keys_unavailable", error=type(error).__name__)
            return
        self._keys = {key.key_id: key for key in map(_key, found.keys[:MAX_KEYS]) if key is not None}
        self._fetched_at = time.monotonic()

    async def _read(self, session: aiohttp.ClientSession, url: str, kind: type[Any]) -> Any:  # noqa: ANN401
        if not url.startswith("https://") and not self._discovery.startswith("http://"):
            raise ValueError("the keys of an https issuer must be at an https URL")
        async with session.get(url, ssl=self._tls, allow_redirects=False) as response:
            response.raise_for_status()
            content = await response.content.read(MAX_BYTES + 1)
            while len(content) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                content += more
            if len(content) > MAX_BYTES:
                raise ValueError("too large")
            return msgspec.json.decode(content, type=kind)


def _key(found: dict[str, Any]) -> jwt.PyJWK | None:
    """Return the key if it can verify signatures: asymmetric, supported, and for that use."""
    if found.get("use", "sig") != "sig" or found.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        return jwt.PyJWK.from_dict(found)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
