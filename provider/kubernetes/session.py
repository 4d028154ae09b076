"""The HTTPS session that Secrets are read through. It can GET one Secret, and do nothing else."""

import re
from collections.abc import Mapping
from typing import final

import aiohttp

from provider.kubernetes.tls import CaBundle

_ONE_SECRET = re.compile(r"https://[^?#]+/api/v1/namespaces/[a-z0-9-]+/secrets/[a-z0-9.-]+")


@final
class SecretSession:
    """Stands where kubernetes_asyncio has a session of its own, which trusts the environment and follows redirects."""

    __slots__ = ("_http", "_trust")

    def __init__(self, trust: CaBundle) -> None:
        self._trust = trust
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            middlewares=(_sent_once,),
        )

    async def request(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        server_hostname: str | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a GET of one Secret, and nothing else. Takes no proxy and no body, so none can be passed on."""
        if method != "GET" or _ONE_SECRET.fullmatch(url) is None:
            raise ValueError("one secret is read, and nothing else")
        return await self._http.get(
            url,
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=timeout,
            ssl=self._trust.context,
            server_hostname=server_hostname,
            allow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


async def _sent_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide from aiohttp that a connection dropped: it would send the request again, and retries are counted by us."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, so aiohttp sends nothing again
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        pass
    raise aiohttp.ClientConnectionError
