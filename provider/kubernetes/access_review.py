"""Access reviews: the permissions of this process on Secrets, as the API server reports them.

A SelfSubjectAccessReview changes nothing and reads no Secret; every authenticated user may create one.
"""

import asyncio
from typing import Final, Literal, final

import msgspec
from msgspec import Struct

from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.session import ApiServerResponse, ApiServerSession

TIMEOUT_S: Final = 5.0
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
    """Access reviews of one cluster, for the user of its credentials."""

    __slots__ = ("_server", "_session", "_slots", "_timeout_s")

    def __init__(self, server: ApiServerConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` bounds a review once it has a slot, both attempts included."""
        self._server = server
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REVIEWS)
        self._session = ApiServerSession(server)

    async def is_allowed(self, verb: Verb, *, namespace: str, name: str = "") -> bool | None:
        """Return true if this process may `verb` the Secret; None without an answer.

        An empty name means all Secrets, and an empty namespace every namespace.
        """
        attributes = {"group": "", "version": "v1", "resource": "secrets", "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes | {"namespace": namespace, "name": name}},
        }
        try:
            async with self._slots, asyncio.timeout(self._timeout_s):
                response = await self._create(msgspec.json.encode(review))
        except Exception:  # noqa: BLE001 - an exception may hold a token or an address; there is no answer
            return None
        return _parse(response.body) if response.status in (200, 201) else None

    async def aclose(self) -> None:
        """Close the connections. Every later review is None."""
        await self._session.aclose()

    async def _create(self, review: bytes) -> ApiServerResponse:
        """Create a review, and once more with a fresh token after a 401."""
        response = await self._post(review, fresh_credentials=False)
        return await self._post(review, fresh_credentials=True) if response.status == 401 else response

    async def _post(self, review: bytes, *, fresh_credentials: bool) -> ApiServerResponse:
        authorization = await self._server.credentials.read_authorization(fresh=fresh_credentials)
        return await self._session.fetch(
            "POST",
            _PATH,
            authorization=authorization,
            timeout_s=self._timeout_s,
            max_bytes=MAX_ANSWER_BYTES,
            body=review,
        )


def _parse(body: bytes) -> bool | None:
    try:
        return msgspec.json.decode(body, type=_AccessReview).status.allowed
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
