"""What came of one GET: an answer, or why there is none. Foreign exceptions are translated here and not looked into."""

from enum import Enum
from typing import Final, final

import aiohttp

from provider.opaque import Opaque
from provider.secret_manifest import MAX_BYTES

_CHUNK_BYTES = 64 * 1024


class ResponseFault(Enum):
    """Why there is no answer."""

    NOT_SENT = "not sent"
    """Nothing left the process: no credentials, a closed session, or the breaker is open."""
    UNREACHABLE = "unreachable"
    """The connection failed or broke off, or it took too long."""
    UNTRUSTED = "untrusted"
    """The server's certificate could not be verified."""
    OUTDATED = "outdated"
    """It could not be verified by the CAs that were known then; others are known by now."""


@final
class ApiServerResponse(Opaque):
    """A status, and a body which may be a Secret."""

    __slots__ = ("body", "retry_after_s", "status")

    def __init__(self, status: int, body: bytes, retry_after_s: float | None = None) -> None:
        self.status: Final = status
        self.body: Final = body
        self.retry_after_s: Final = retry_after_s
        """What the server asks for, if it asks in seconds."""

    @property
    def is_overload(self) -> bool:
        """Whether the server says that it cannot answer now."""
        return self.status == 429 or self.status >= 500


async def answer_of(response: aiohttp.ClientResponse) -> ApiServerResponse:
    """Read the response. A body that is too long to be a Secret is none. Raises whatever broke off."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BYTES:
            response.close()
            body.clear()
            break
    return ApiServerResponse(response.status, bytes(body), _seconds(response.headers.get("Retry-After", "")))


def fault_of(error: Exception) -> ResponseFault:
    """Translate what was raised. It may hold a token, an address or a body, so only its type counts."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ResponseFault.UNTRUSTED
    if isinstance(error, aiohttp.ClientError | OSError):
        return ResponseFault.UNREACHABLE
    return ResponseFault.NOT_SENT


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
