"""What another HTTP client makes of a receiver's answer: aiohttp, told to follow, keep and unpack nothing."""

import asyncio
import ssl

import aiohttp


async def status_by_aiohttp(
    url: str, *, timeout_s: float, body: bytes = b"{}", tls: ssl.SSLContext | None = None
) -> int | None:
    """POST to `url` on a connection of its own; the status, or None if aiohttp says that there was none."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(url, data=body, allow_redirects=False, ssl=True if tls is None else tls) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
