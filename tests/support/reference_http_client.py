"""A reference HTTP client: aiohttp without redirects, kept connections and decompression."""

import asyncio
import ssl

import aiohttp


async def status_by_aiohttp(
    url: str, *, timeout_s: float, body: bytes = b"{}", tls: ssl.SSLContext | None = None
) -> int | None:
    """POST to `url` on a new connection; return the status, or None when aiohttp received no valid response."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(url, data=body, allow_redirects=False, ssl=True if tls is None else tls) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
