"""What this process may do with Secrets, by the API server's own word: SelfSubjectAccessReview.

Asking changes nothing and reads no Secret; every authenticated user may ask. It speaks to the server directly, with
the same care as `provider.kubernetes.provider`: no proxy from the environment, no redirect, every answer bounded.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Literal, final

import aiohttp
import msgspec
from msgspec import Struct

from provider.kubernetes.api_server import ApiServerConfig

TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 1.0
MAX_CONCURRENT_REVIEWS: Final = 8
MAX_ANSWER_BYTES: Final = 64 * 1024

Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]

_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class _ReviewStatus(Struct, frozen=True):
    allowed: bool


class _AccessReview(Struct, frozen=True):
    kind: Literal["SelfSubjectAccessReview"]
    status: _ReviewStatus


@final
class AccessReviews:
    """Asks one cluster, as whoever its credentials say."""

    __slots__ = ("_cluster", "_http", "_timeout_s", "_turns")

    def __init__(self, cluster: ApiServerConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` bounds a question once it is its turn, both tries of it."""
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_REVIEWS)
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False)

    async def may(self, verb: Verb, *, namespace: str, name: str = "") -> bool | None:
        """Whether we may do that to the Secret `name` in `namespace`; None when it could not be asked.

        Without a name it is about all of them, and an empty namespace is every one.
        """
        attributes = {"group": "", "version": "v1", "resource": "secrets", "verb": verb}
        asked = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes | {"namespace": namespace, "name": name}},
        }
        try:
            async with self._turns, asyncio.timeout(self._timeout_s):
                status, body = await self._answer(asked)
        except Exception:  # noqa: BLE001 - it may hold a token or an address; whatever it was, there is no answer
            return None
        return _allowed(body) if status in (200, 201) else None

    async def aclose(self) -> None:
        """Close the connections. Every later question is answered with None."""
        await self._http.close()

    async def _answer(self, asked: Mapping[str, Any]) -> tuple[int, bytes]:
        """What is answered, with the token read anew if it is refused. Raises whatever went wrong."""
        status, body = await self._ask(asked, fresh_credentials=False)
        if status == 401:
            return await self._ask(asked, fresh_credentials=True)
        return status, body

    async def _ask(self, asked: Mapping[str, Any], *, fresh_credentials: bool) -> tuple[int, bytes]:
        """One POST: its status and its body. Raises whatever went wrong."""
        cluster = self._cluster
        authorization = await cluster.credentials.authorization(fresh=fresh_credentials)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        response = await self._http.post(
            cluster.url + _PATH,
            data=msgspec.json.encode(asked),
            headers=headers | ({"Authorization": authorization} if authorization else {}),
            ssl=cluster.trust.context,
            server_hostname=cluster.server_name,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_TIMEOUT_S),
            allow_redirects=False,
        )
        async with response:
            return response.status, await _bounded(response.content)


async def _bounded(stream: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in stream.iter_chunked(MAX_ANSWER_BYTES):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return bytes(body)


def _allowed(body: bytes) -> bool | None:
    try:
        return msgspec.json.decode(body, type=_AccessReview).status.allowed
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
