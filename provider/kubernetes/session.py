"""HTTPS session to an API server: bounded answers, no proxy, no redirect, no cookie, nothing sent twice.

Exceptions of aiohttp end here. They may hold a token, an address or a body, so only their type is looked at.
"""

import re
from enum import Enum
from typing import Final, Literal, final

import aiohttp

from provider.kubernetes.api_server import ApiServerConfig
from provider.opaque import Opaque

CONNECT_TIMEOUT_S: Final = 1.0

_CHUNK_BYTES = 64 * 1024
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "oneprotect-delivery",
}


_ALLOWED: Final = {
    "GET": re.compile(r"/api/v1/namespaces/[a-z0-9-]+/secrets/[a-z0-9.-]+").fullmatch,
    "POST": re.compile(r"/apis/authorization\.k8s\.io/v1/selfsubjectaccessreviews").fullmatch,
}


class ResponseFault(Enum):
    """Reason for a missing answer."""

    NOT_SENT = "not sent"
    """Nothing left the process: no credentials, a closed session, or an open circuit breaker."""
    UNREACHABLE = "unreachable"
    """The connection failed, broke off or timed out."""
    UNTRUSTED = "untrusted"
    """The server's certificate could not be verified."""
    OUTDATED = "outdated"
    """The certificate could not be verified with the CAs of that time; the CA file has changed since."""


@final
class ApiServerResponse(Opaque):
    """Status, and a body that may be a Secret."""

    __slots__ = ("body", "retry_after_s", "status")

    def __init__(self, status: int, body: bytes, retry_after_s: float | None = None) -> None:
        self.status: Final = status
        self.body: Final = body
        self.retry_after_s: Final = retry_after_s
        """`Retry-After`, if the server gave seconds."""

    @property
    def is_overload(self) -> bool:
        """True for 429 and 5xx: the server cannot answer now."""
        return self.status == 429 or self.status >= 500


@final
class ApiServerSession:
    """Connections to one API server."""

    __slots__ = ("_http", "_server")

    def __init__(self, server: ApiServerConfig) -> None:
        self._server = server
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False, middlewares=(_send_once,)
        )

    async def fetch(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        authorization: str | None,
        timeout_s: float,
        max_bytes: int,
        body: bytes | None = None,
    ) -> ApiServerResponse:
        """Send one request and read the answer; a body of more than `max_bytes` becomes an empty one.

        `timeout_s` bounds the whole exchange. Raises any exception; `translate_error` gives its meaning.
        """
        if not _ALLOWED[method](path):
            raise ValueError("only one Secret is read, and only access reviews are created")
        async with self._http.request(
            method,
            self._server.url + path,
            data=body,
            headers=_HEADERS | ({"Authorization": authorization} if authorization else {}),
            ssl=self._server.trust.context,
            server_hostname=self._server.server_name,
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S),
            allow_redirects=False,
        ) as response:
            return await _read_response(response, max_bytes)

    async def aclose(self) -> None:
        """Close the connections. Later requests fail with `NOT_SENT`."""
        await self._http.close()


def translate_error(error: Exception) -> ResponseFault:
    """Return the fault that an exception of `fetch` means."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ResponseFault.UNTRUSTED
    if isinstance(error, aiohttp.ClientError | OSError):
        return ResponseFault.UNREACHABLE
    return ResponseFault.NOT_SENT


async def _read_response(response: aiohttp.ClientResponse, max_bytes: int) -> ApiServerResponse:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            response.close()
            body.clear()
            break
    return ApiServerResponse(response.status, bytes(body), _parse_seconds(response.headers.get("Retry-After", "")))


def _parse_seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide dropped connections from aiohttp, which would send the request again: `ReadRetryPolicy` counts retries."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, so aiohttp sends nothing again
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        pass
    raise aiohttp.ClientConnectionError
